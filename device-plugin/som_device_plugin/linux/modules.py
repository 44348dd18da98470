"""Kernel modules, as /sys/module shows them."""

import pathlib
from typing import Final

from som_api import VERSION, v1alpha1

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


def wrong_som() -> str:
    """What keeps the agent from using the som.ko that is loaded, with the cure; or ""."""
    found = loaded("som")
    if found is None or found.version == VERSION:
        return ""
    return (
        f"som.ko {found.version} is loaded, and this agent needs {VERSION}: the operator replaces "
        "it when no container holds memory of it any more"
    )


def _read(path: pathlib.Path) -> str:
    """What one file says; "" where the kernel has none of it."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
