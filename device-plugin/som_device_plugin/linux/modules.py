"""Kernel modules, as /sys/module shows them."""

import pathlib
from typing import Final

from som_api import v1alpha1

_MODULES: Final = pathlib.Path("/sys/module")


def loaded(name: str) -> v1alpha1.Module | None:
    """The module of this name as it is loaded now, or None."""
    directory = _MODULES / name
    # There is a directory from the first moment on, and a state of it is "coming".
    if _read(directory / "initstate") != "live":
        return None
    return v1alpha1.Module(
        version=_read(directory / "version"), src_version=_read(directory / "srcversion")
    )


def _read(path: pathlib.Path) -> str:
    """What one file says; "" where the kernel has none of it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
