"""Memory blocks on a tree of files as the kernel shows them."""

import pathlib
import struct

import pytest

from som_device_plugin.linux import iomem, memory_blocks

BLOCK = 2**27


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """Blocks 8 (Movable), 9 (off line) and 10 (in two zones)."""
    (tmp_path / "block_size_bytes").write_text("8000000\n")
    for number, state, zones in (
        (8, "online", "Movable"),
        (9, "offline", "Normal Movable"),
        (10, "online", "none"),
    ):
        block = tmp_path / f"memory{number}"
        (block / "node1").mkdir(parents=True)
        (block / "phys_index").write_text(f"{number:08x}\n")
        (block / "state").write_text(f"{state}\n")
        (block / "valid_zones").write_text(f"{zones}\n")
    return tmp_path


def state(tree: pathlib.Path, number: int) -> str:
    return (tree / f"memory{number}" / "state").read_text().strip()


def test_blocks_are_read_by_address(tree: pathlib.Path) -> None:
    assert memory_blocks.blocks(directory=tree) == (
        memory_blocks.Block(8 * BLOCK, BLOCK, online=True, zone="Movable", node=1),
        memory_blocks.Block(9 * BLOCK, BLOCK, online=False, zone="", node=1),
        memory_blocks.Block(10 * BLOCK, BLOCK, online=True, zone="", node=1),
    )


def test_the_blocks_of_a_range_are_read_alone(tree: pathlib.Path) -> None:
    for start, end, numbers in ((9, 10, [9]), (9, 12, [9, 10]), (0, 9, [8]), (11, 99, [])):
        within = iomem.Range(start * BLOCK, end * BLOCK)
        found = memory_blocks.blocks(within, tree)
        assert [block.start // BLOCK for block in found] == numbers


@pytest.mark.parametrize(
    ("zone", "written"),
    [("Movable", "online_movable"), ("Normal", "online_kernel"), ("", "online")],
)
def test_a_block_comes_on_line_in_its_zone(zone: str, written: str, tree: pathlib.Path) -> None:
    memory_blocks.put_on_line(9 * BLOCK, zone, tree)
    assert state(tree, 9) == written


def test_a_block_is_moved_only_where_it_is_in_another_zone(tree: pathlib.Path) -> None:
    memory_blocks.put_on_line(8 * BLOCK, "Movable", tree)
    memory_blocks.put_on_line(10 * BLOCK, "", tree)
    assert (state(tree, 8), state(tree, 10)) == ("online", "online")
    memory_blocks.put_on_line(8 * BLOCK, "Normal", tree)
    assert state(tree, 8) == "online_kernel"


def test_what_the_kernel_does_with_added_memory_is_read_and_written(tree: pathlib.Path) -> None:
    (tree / "auto_online_blocks").write_text("online\n")
    assert memory_blocks.on_adding(tree) == "online"
    memory_blocks.set_on_adding(memory_blocks.OFFLINE, tree)
    assert memory_blocks.on_adding(tree) == "offline"
    with pytest.raises(memory_blocks.MemoryBlockError, match="writing online to"):
        memory_blocks.set_on_adding("online", tree / "memory99")


def test_a_block_that_is_gone_is_named(tree: pathlib.Path) -> None:
    with pytest.raises(memory_blocks.MemoryBlockError, match="memory11 on line: No such file"):
        memory_blocks.put_on_line(11 * BLOCK, "Movable", tree)
    with pytest.raises(memory_blocks.MemoryBlockError, match="CONFIG_MEMORY_HOTREMOVE"):
        memory_blocks.blocks(directory=tree / "memory8")


def test_how_much_is_used_is_told_from_one_page_of_each_2_mib(tmp_path: pathlib.Path) -> None:
    flags = tmp_path / "kpageflags"
    free, used = struct.pack("=Q", 1 << 10), struct.pack("=Q", 1 << 5)
    flags.write_bytes(free * 512 + used * 512 + used + free * 511)
    assert memory_blocks.used_pages(0, 3 * 2**21, flags) == 2
    assert memory_blocks.used_pages(2**21, 2**21, flags) == 1
    assert memory_blocks.used_pages(0, 2**21, tmp_path / "missing") == 0
