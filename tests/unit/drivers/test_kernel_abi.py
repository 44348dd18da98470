"""The Python layouts are those of driver/uapi/som.h, as a C compiler sees them."""

import ctypes
import errno
import fcntl
import os
import pathlib
import shutil
import stat
import subprocess

import pytest

from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi

HEADER = pathlib.Path(__file__).parents[3] / "driver/uapi/som.h"
STRUCTURES = {
    "som_query": abi.Query,
    "som_pool_create": abi.PoolCreate,
    "som_pool_add": abi.PoolAdd,
    "som_pool_destroy": abi.PoolDestroy,
    "som_pool_info": abi.PoolInfo,
    "som_lease_create": abi.LeaseCreate,
    "som_lease_revoke": abi.LeaseRevoke,
    "som_lease_destroy": abi.LeaseDestroy,
    "som_lease_info": abi.LeaseInfo,
    "som_pool_span": abi.PoolSpan,
    "som_pool_remove": abi.PoolRemove,
    "som_memory_failed": abi.MemoryFailed,
    "som_pool_compact": abi.PoolCompact,
    "som_pool_promote": abi.PoolPromote,
}
CONSTANTS = {
    "SOM_API_VERSION": abi.API_VERSION,
    "SOM_CHUNK_BYTES": abi.CHUNK_BYTES,
    "SOM_EXTENT_BYTES": abi.EXTENT_BYTES,
    "SOM_NAME_BYTES": abi.NAME_BYTES,
    "SOM_NUMA_ANY": abi.NUMA_ANY,
    "SOM_SOURCE_EXTERNAL": abi.SOURCE_EXTERNAL,
    "SOM_SOURCE_HUGETLB": abi.SOURCE_HUGETLB,
    "SOM_SOURCE_CARVED": abi.SOURCE_CARVED,
    "SOM_SOURCE_DEVDAX": abi.SOURCE_DEVDAX,
    "SOM_MAPPING_BARE": abi.MAPPING_BARE,
    "SOM_MAPPING_PINNABLE": abi.MAPPING_PINNABLE,
    "SOM_LEASE_MOVABLE": abi.LEASE_MOVABLE,
    "SOM_LEASE_STATE_REVOKED": abi.LEASE_STATE_REVOKED,
    "SOM_LEASE_STATE_MOVABLE": abi.LEASE_STATE_MOVABLE,
    "SOM_SPAN_STATE_LEAVING": abi.SPAN_STATE_LEAVING,
}


Numbers = dict[str, list[int]]


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """What the compiler says: name of a constant, structure or field -> its numbers."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt-get install gcc libc6-dev")
    lines = [f'printf("{name} %lld\\n", (long long){name});' for name in CONSTANTS]
    for name, structure in STRUCTURES.items():
        command = name.upper().replace("SOM_", "SOM_CTL_", 1)
        lines.append(
            f'printf("{name} %u %zu %u\\n", (unsigned){command}, sizeof(struct {name}), '
            f"(unsigned){name.upper()}_SIZE_VER0);"
        )
        lines += [
            f'printf("{name}.{field} %zu %zu\\n", offsetof(struct {name}, {field}), '
            f"sizeof(((struct {name} *)0)->{field}));"
            for field, *_ in structure._fields_
        ]
    work = tmp_path_factory.mktemp("abi")
    source, program = work / "abi.c", work / "abi"
    includes = f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\n'
    source.write_text(includes + "int main(void) {\n" + "\n".join(lines) + "\n}\n")
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", program, source], check=True)
    shown = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {
        name: [int(n) for n in numbers] for name, *numbers in map(str.split, shown.splitlines())
    }


def test_constants_are_those_of_the_header(header: Numbers) -> None:
    assert {name: header[name] for name in CONSTANTS} == {
        name: [value] for name, value in CONSTANTS.items()
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_has_the_layout_and_number_of_the_header(name: str, header: Numbers) -> None:
    structure = STRUCTURES[name]
    size = ctypes.sizeof(structure)
    command, whole, first = header[name]
    assert (command, whole) == (structure.command, size)
    assert first <= whole, "fields that came later are at the end"
    for field, *_ in structure._fields_:
        descriptor = getattr(structure, field)
        assert header[f"{name}.{field}"] == [descriptor.offset, descriptor.size], field


def test_an_argument_sets_its_own_size() -> None:
    assert abi.PoolInfo(pool=3, numa_node=-1).size == 152


@pytest.fixture
def module(tmp_path: pathlib.Path) -> abi.Module:
    """One of which nothing but the control device's number is there."""
    shown = tmp_path / "sys/class/misc/som_ctl/dev"
    shown.parent.mkdir(parents=True)
    # /dev/null's, which every command is wrong for.
    shown.write_text("1:3\n")
    (tmp_path / "dev").mkdir()
    return abi.Module(dev=tmp_path / "dev", sysfs=tmp_path / "sys")


def test_a_kernel_that_any_user_could_crash_is_named_as_the_reason(
    module: abi.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(abi.KERNEL_TOO_OLD, "Package not installed")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(abi.KernelError, match="any user could crash the node") as caught:
        module.call(abi.PoolCreate(source=abi.SOURCE_EXTERNAL))
    assert caught.value.errno == abi.KERNEL_TOO_OLD


def test_a_container_that_began_before_the_module_was_loaded_makes_the_node_of_its_device(
    module: abi.Module,
) -> None:
    with pytest.raises(abi.KernelError, match="Query: Inappropriate ioctl"):
        module.call(abi.Query())
    assert (module.dev / "som_ctl").stat().st_rdev == os.makedev(1, 3)


def test_a_node_of_the_module_that_was_loaded_before_is_made_again(module: abi.Module) -> None:
    os.mknod(module.dev / "som_ctl", stat.S_IFCHR, os.makedev(1, 5))
    with pytest.raises(abi.KernelError):
        module.call(abi.Query())
    assert (module.dev / "som_ctl").stat().st_rdev == os.makedev(1, 3)


def test_no_module_is_an_error_with_the_cure(tmp_path: pathlib.Path) -> None:
    with pytest.raises(seams.DriverNotLoaded, match="the operator loads it"):
        abi.Module(dev=tmp_path, sysfs=tmp_path).call(abi.Query())
    assert list(abi.Module(dev=tmp_path, sysfs=tmp_path).leases()) == []


def test_what_was_moved_is_what_sysfs_tells_of_a_pool(module: abi.Module) -> None:
    pool = module.sysfs / "class/som/pool3"
    pool.mkdir(parents=True)
    for name, text in (("moved_bytes", "4194304"), ("failed_moves", "1")):
        (pool / name).write_text(f"{text}\n")
    assert module.moves(3) == seams.Moves(moved_bytes=4 << 20, failed=1)
    assert module.moves(4) is None


class Nobody(abi.Module):
    """A device that knows no command of som.ko."""

    def open(self) -> int:
        return os.open("/dev/null", os.O_RDWR)


def test_a_command_in_a_process_of_its_own_answers_what_the_kernel_does() -> None:
    with pytest.raises(abi.KernelError, match="PoolAdd: Inappropriate ioctl") as refused:
        Nobody().call_in_child(abi.PoolAdd(pool=1), limit_s=60)
    assert refused.value.errno == errno.ENOTTY


def test_a_command_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "_CHILD", "import time; time.sleep(600)")
    with pytest.raises(abi.KernelError, match="stopped") as refused:
        Nobody().call_in_child(abi.PoolAdd(pool=1), limit_s=0.1)
    assert refused.value.errno == errno.ETIME
