"""What som.ko begins to need, and what a kernel begins to offer otherwise, is seen here."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver import imports
from guests import debian


@pytest.mark.parametrize("kernel", [pytest.param(name, id=f"{name}/") for name in debian.SERIES])
def test_nothing_is_taken_from_the_kernel_but_what_the_list_has(
    kernel: str, built: tuple[debian.Kernel, dict[str, Path]]
) -> None:
    unpacked, files = built
    unlisted = imports.of(files["som.ko"], unpacked) - imports.known(kernel)
    assert not unlisted, f"{imports.LIST.name} lacks for kernel {kernel}: {sorted(unlisted)}"
