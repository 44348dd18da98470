"""The Python layouts are those of driver/uapi/som.h, as a C compiler sees them."""

import ctypes
import pathlib
import shutil
import subprocess

import pytest

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
