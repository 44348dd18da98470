"""The dax bus as it is in a guest, on a tree of files."""

import os
import pathlib
import subprocess
import sys

import pytest

from som_device_plugin.linux import dax, iomem


def add(bus: pathlib.Path, name: str, *, driver: str, size_bytes: int = 2**30) -> None:
    device = bus / "devices" / name
    (device / "mapping0").mkdir(parents=True)
    for file, text in {
        "size": size_bytes,
        "align": 2 * 2**20,
        "target_node": 1,
        "dev": "252:1",
        "mapping0/start": "0x100a00000",
        "mapping0/end": f"{0x100A00000 + size_bytes - 1:#x}",
    }.items():
        (device / file).write_text(f"{text}\n")
    if driver:
        (bus / "drivers" / driver).mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(bus / "drivers" / driver)


def test_devices_are_read_in_the_order_of_their_numbers(tmp_path: pathlib.Path) -> None:
    assert dax.devices(tmp_path) == ()
    add(tmp_path, "dax0.10", driver="kmem")
    add(tmp_path, "dax0.2", driver="")
    add(tmp_path, "dax0.1", driver="device_dax")
    add(tmp_path, "dax1.0", driver="", size_bytes=0)
    (tmp_path / "devices/dax0.10/target_node").unlink()
    found = dax.devices(tmp_path)
    assert [(each.name, each.driver) for each in found] == [
        ("dax0.1", "device_dax"),
        ("dax0.2", ""),
        ("dax0.10", "kmem"),
    ]
    assert found[0] == dax.Device(
        name="dax0.1",
        driver="device_dax",
        size_bytes=2**30,
        align_bytes=2 * 2**20,
        node=1,
        ranges=(iomem.Range(0x100A00000, 0x140A00000),),
        number=os.makedev(252, 1),
    )
    assert found[2].node == -1, "Linux 6.1 does not tell it"


def test_a_device_is_unbound_and_bound_by_its_name(tmp_path: pathlib.Path) -> None:
    add(tmp_path, "dax0.0", driver="device_dax")
    dax.unbind(dax.devices(tmp_path)[0], tmp_path)
    driver = tmp_path / "drivers/device_dax"
    assert (driver / "unbind").read_text() == "dax0.0"
    dax.bind("dax0.0", "device_dax", tmp_path)
    assert not (driver / "bind").exists(), "it is bound"
    (tmp_path / "devices/dax0.0/driver").unlink()
    dax.bind("dax0.0", "device_dax", tmp_path)
    assert (driver / "bind").read_text() == "dax0.0"
    with pytest.raises(dax.DaxError, match=r"writing dax0.0 to .*/kmem/bind: No such file"):
        dax.bind("dax0.0", "kmem", tmp_path)


def test_the_driver_counts_who_has_devices_open(tmp_path: pathlib.Path) -> None:
    assert dax.is_any_open(tmp_path), "nobody counts"
    for count, is_open in ((0, False), (2, True)):
        (tmp_path / "refcnt").write_text(f"{count}\n")
        assert dax.is_any_open(tmp_path) == is_open


def test_who_has_a_device_open_is_named(tmp_path: pathlib.Path) -> None:
    # A character device is one: /dev/null stands for a devdax device.
    add(tmp_path, "dax0.0", driver="device_dax")
    (tmp_path / "devices/dax0.0/dev").write_text("1:3\n")
    found = dax.devices(tmp_path)
    program = "import sys; file = open('/dev/null'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.read(1)
        proc = tmp_path / "proc"
        proc.mkdir()
        assert dax.users(found, proc) == {}
        (proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        assert dax.users(found, proc)["dax0.0"].startswith(f"pid {process.pid} (python")


def test_what_failed_of_a_device_is_in_the_list_of_its_region(tmp_path: pathlib.Path) -> None:
    region = tmp_path / "region0"
    add(region / "dax0.0", "dax0.0", driver="")
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/dax0.0").symlink_to(region / "dax0.0/devices/dax0.0")
    (device,) = dax.devices(tmp_path)
    assert dax.failed(device, tmp_path) == (), "no persistent memory"
    (region / "resource").write_text("0x100000000\n")
    (region / "badblocks").write_text("")
    assert dax.failed(device, tmp_path) == ()
    (region / "badblocks").write_text("8 1\n20480 512\n")
    assert dax.failed(device, tmp_path) == (
        iomem.Range(0x100001000, 0x100001200),
        iomem.Range(0x100A00000, 0x100A40000),
    )
    (region / "badblocks").unlink()
    (region / "badblocks").mkdir()
    assert dax.failed(device, tmp_path) == (), "an error of the kernel"
