"""How som.ko is found and asked, and what is said where it refuses."""

import errno
import fcntl
import os
import pathlib
import stat

import pytest

from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi, control


@pytest.fixture
def module(tmp_path: pathlib.Path) -> control.Module:
    """One of which nothing but the control device's number is there."""
    shown = tmp_path / "sys/class/misc/som_ctl/dev"
    shown.parent.mkdir(parents=True)
    # /dev/null's, which every command is wrong for.
    shown.write_text("1:3\n")
    (tmp_path / "dev").mkdir()
    return control.Module(dev=tmp_path / "dev", sysfs=tmp_path / "sys")


def test_a_kernel_that_any_user_could_crash_is_named_as_the_reason(
    module: control.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(control.KERNEL_TOO_OLD, "Package not installed")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(control.KernelError, match="any user could crash the node") as caught:
        module.call(abi.PoolCreate(source=abi.SOURCE_EXTERNAL))
    assert caught.value.errno == control.KERNEL_TOO_OLD


def test_a_container_that_began_before_the_module_was_loaded_makes_the_node_of_its_device(
    module: control.Module,
) -> None:
    with pytest.raises(control.KernelError, match="Query: Inappropriate ioctl"):
        module.call(abi.Query())
    assert (module.dev / "som_ctl").stat().st_rdev == os.makedev(1, 3)


def test_a_node_of_the_module_that_was_loaded_before_is_made_again(module: control.Module) -> None:
    os.mknod(module.dev / "som_ctl", stat.S_IFCHR, os.makedev(1, 5))
    with pytest.raises(control.KernelError):
        module.call(abi.Query())
    assert (module.dev / "som_ctl").stat().st_rdev == os.makedev(1, 3)


def test_no_module_is_an_error_with_the_cure(tmp_path: pathlib.Path) -> None:
    with pytest.raises(seams.DriverNotLoaded, match="the operator loads it"):
        control.Module(dev=tmp_path, sysfs=tmp_path).call(abi.Query())
    assert list(control.Module(dev=tmp_path, sysfs=tmp_path).leases()) == []


def test_what_was_moved_is_what_sysfs_tells_of_a_pool(module: control.Module) -> None:
    pool = module.sysfs / "class/som/pool3"
    pool.mkdir(parents=True)
    for name, text in (("moved_bytes", "4194304"), ("failed_moves", "1")):
        (pool / name).write_text(f"{text}\n")
    assert module.moves(3) == seams.Moves(moved_bytes=4 << 20, failed=1)
    assert module.moves(4) is None


class Nobody(control.Module):
    """A device that knows no command of som.ko."""

    def open(self) -> int:
        return os.open("/dev/null", os.O_RDWR)


def test_a_command_in_a_process_of_its_own_answers_what_the_kernel_does() -> None:
    with pytest.raises(control.KernelError, match="PoolAdd: Inappropriate ioctl") as refused:
        Nobody().call_in_child(abi.PoolAdd(pool=1), limit_s=60)
    assert refused.value.errno == errno.ENOTTY


def test_a_command_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_CHILD", "import time; time.sleep(600)")
    with pytest.raises(control.KernelError, match="stopped") as refused:
        Nobody().call_in_child(abi.PoolAdd(pool=1), limit_s=0.1)
    assert refused.value.errno == errno.ETIME
