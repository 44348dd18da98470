"""The devices of the dax bus, and which driver has each (drivers/dax/bus.c).

The driver is what kernel documents call the mode: `device_dax` for devdax, `kmem` for system-ram,
`fsdev_dax` for a file system's.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Final

from som_api import SomError
from som_device_plugin.linux import iomem, processes

DEVDAX: Final = "device_dax"
_SECTOR: Final = 512

_BUS: Final = pathlib.Path("/sys/bus/dax")
_PROC: Final = pathlib.Path("/proc")
_MODULE: Final = pathlib.Path("/sys/module/device_dax")


class DaxError(SomError):
    """The kernel refused to unbind or to bind a device."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One devdax device. `driver` is "" for one that no driver has. `number` as of `os.makedev`.

    `ranges` are the physical addresses that the device consists of.
    """

    name: str
    driver: str
    size_bytes: int
    align_bytes: int
    node: int
    ranges: tuple[iomem.Range, ...]
    number: int


def devices(bus: pathlib.Path = _BUS) -> tuple[Device, ...]:
    """All devices of the bus, in the order of their numbers; those without a size left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in (bus / "devices").iterdir():
            # One may go while it is read.
            with contextlib.suppress(OSError):
                found.append(_device(path))
    return tuple(sorted((each for each in found if each.size_bytes), key=by_number))


def by_number(device: Device) -> tuple[int, ...]:
    """`dax0.2` before `dax0.10`."""
    return tuple(map(int, re.findall(r"\d+", device.name)))


def unbind(device: Device, bus: pathlib.Path = _BUS) -> None:
    """Take the device from its driver, which ends every mapping of it.

    Raises:
        DaxError: what the kernel answered.
    """
    _write(bus / "drivers" / device.driver / "unbind", device.name)


def bind(name: str, driver: str, bus: pathlib.Path = _BUS) -> None:
    """Give the device `name` to `driver`; done already is no error.

    Raises:
        DaxError: what the kernel answered: its range is still used, for example.
    """
    if _driver(bus / "devices" / name) != driver:
        _write(bus / "drivers" / driver / "bind", name)


def region(device: Device, bus: pathlib.Path = _BUS) -> pathlib.Path | None:
    """The region of persistent memory (drivers/nvdimm) that the device lies in; None: no such."""
    above = (bus / "devices" / device.name).resolve().parents
    return next((path for path in above if (path / "badblocks").exists()), None)


def failed(device: Device, bus: pathlib.Path = _BUS) -> tuple[iomem.Range, ...]:
    """What of the device's region the kernel knows to have failed, from before this boot, too.

    Firmware and machine checks tell the region, whose list is in sectors of 512 bytes from its
    start. Other memory has none.
    """
    if (path := region(device, bus)) is None:
        return ()
    try:
        start = int((path / "resource").read_text(), 0)
        lines = (path / "badblocks").read_text().splitlines()
    except OSError:
        # ENXIO: the region has no driver.
        return ()
    blocks = [tuple(map(int, line.split())) for line in lines]
    return tuple(
        iomem.Range(start + first * _SECTOR, start + (first + number) * _SECTOR)
        for first, number in blocks
    )


def is_any_open(module: pathlib.Path = _MODULE) -> bool:
    """Whether anybody may have a devdax device open or mapped, in any namespace: the driver counts.

    Built into the kernel it counts nothing, so that somebody may.
    """
    try:
        return int((module / "refcnt").read_text()) > 0
    except FileNotFoundError:
        return True


def users(wanted: Sequence[Device], proc: pathlib.Path = _PROC) -> dict[str, str]:
    """Device's name -> who has it open or mapped, as `pid 42 (postgres)`; may take for ever."""
    found: dict[str, str] = {}
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used = [each.name for each in wanted if processes.uses(process, each.number)]
            if used:
                command = processes.printable((process / "comm").read_bytes().strip())
                found |= dict.fromkeys(used, f"pid {process.name} ({command})")
    return found


def _device(path: pathlib.Path) -> Device:
    def number(name: str, default: str = "") -> int:
        file = path / name
        return int(file.read_text() if file.exists() or not default else default, 0)

    return Device(
        name=path.name,
        driver=_driver(path),
        size_bytes=number("size"),
        align_bytes=number("align"),
        # Linux 6.1 hides it where the firmware tells none.
        node=number("target_node", "-1"),
        ranges=tuple(
            iomem.Range(
                int((mapping / "start").read_text(), 0), int((mapping / "end").read_text(), 0) + 1
            )
            for mapping in sorted(path.glob("mapping[0-9]*"), key=lambda each: int(each.name[7:]))
        ),
        number=os.makedev(*map(int, (path / "dev").read_text().split(":"))),
    )


def _driver(device: pathlib.Path) -> str:
    try:
        return (device / "driver").readlink().name
    except FileNotFoundError:
        return ""


def _write(path: pathlib.Path, name: str) -> None:
    try:
        path.write_text(name)
    except OSError as error:
        raise DaxError(f"writing {name} to {path}: {error.strerror}") from error
