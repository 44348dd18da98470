"""/proc/iomem as it was on a real machine and in a guest with memory of all kinds."""

import pathlib

import pytest

from som_device_plugin.linux import iomem

RECORDED = """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000f0000-000fffff : Reserved
  000f0000-000fffff : System ROM
100000000-11fffffff : Persistent Memory (legacy)
  100000000-11fffffff : namespace0.0
    100a00000-11fffffff : dax0.0
120000000-13fffffff : Reserved
  120000000-12fffffff : som
140000000-1bfffffff : System RAM
"""


@pytest.fixture
def recorded(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "iomem"
    path.write_text(RECORDED)
    return path


def test_each_line_is_a_range_with_a_name_and_a_depth(recorded: pathlib.Path) -> None:
    found = iomem.read(recorded)
    assert found[6] == iomem.Resource(0x100A00000, 0x120000000, name="dax0.0", depth=2)
    assert [(each.name, each.depth) for each in found[-3:]] == [
        ("Reserved", 0),
        ("som", 1),
        ("System RAM", 0),
    ]
    assert str(found[1]) == "0x1000-0x9fbff"


def test_addresses_hidden_from_a_reader_without_rights_are_no_memory(
    recorded: pathlib.Path,
) -> None:
    recorded.write_text("00000000-00000000 : System RAM\n")
    with pytest.raises(iomem.IomemError, match="CAP_SYS_ADMIN"):
        iomem.read(recorded)
    with pytest.raises(iomem.IomemError, match="No such file"):
        iomem.read(recorded.with_name("missing"))


def test_what_is_left_of_a_range() -> None:
    taken = [iomem.Range(4, 6), iomem.Range(0, 2), iomem.Range(5, 7), iomem.Range(9, 20)]
    assert [*iomem.without(iomem.Range(1, 10), taken)] == [iomem.Range(2, 4), iomem.Range(7, 9)]
    assert [*iomem.without(iomem.Range(1, 2), [])] == [iomem.Range(1, 2)]
    assert [*iomem.without(iomem.Range(1, 2), [iomem.Range(0, 3)])] == []
