import pathlib

import pytest

from som_api import v1alpha1
from som_device_plugin import pods
from som_device_plugin.local import layout, programs, units


def pod(count: int, *, unit: v1alpha1.Unit = "2Mi", ticket: str = "n0-0") -> programs.Program:
    return programs.Program(
        name=f"p{count}", uid=f"u{count}", request=units.Request(unit, count), ticket=ticket
    )


def status(capacity_bytes: int) -> v1alpha1.SomNodeStatus:
    return v1alpha1.SomNodeStatus.model_validate(
        {
            "pools": [
                {
                    "name": "demo",
                    "generation": 1,
                    "unit": "2Mi",
                    "capacity": capacity_bytes,
                    "allocated": 0,
                    "free": 0,
                }
            ]
        }
    )


def test_units_are_counted_against_what_the_agent_reported() -> None:
    request = units.Request("2Mi", 4)
    programs.admit(request, pods=[pod(6)], status=status(20 * 2**20))
    with pytest.raises(programs.Refused, match=r"som.io/2Mi: 4 requested, 3 free of 10 .*: p7 7"):
        programs.admit(request, pods=[pod(7)], status=status(20 * 2**20))


def test_before_the_first_report_nothing_is_admitted() -> None:
    with pytest.raises(programs.Refused, match="no pool has this unit"):
        programs.admit(units.Request("2Mi", 1), pods=[], status=None)


def test_another_unit_is_another_count() -> None:
    programs.admit(units.Request("2Mi", 10), pods=[pod(9, unit="1Gi")], status=status(20 * 2**20))


def test_the_books_survive_and_are_what_the_agent_reads(tmp_path: pathlib.Path) -> None:
    state_dir = layout.StateDir(tmp_path)
    assert programs.read(state_dir) == []
    written = [pod(64), pod(1, unit="1Gi", ticket="n1-3")]
    programs.write(state_dir, written)
    assert programs.read(state_dir) == written
    read = pods.decode_pod(written[1].to_manifest())
    assert (read.namespace, read.name, read.uid, read.terminal) == ("som-local", "p1", "u1", False)
    assert [(each.name, each.size_bytes) for each in read.containers] == [("main", 2**30)]


@pytest.mark.parametrize("program", ["/bin/PostgreS", "ÄÖ", "a" * 300, "../..", ""])
def test_any_program_gives_a_name_that_a_pod_can_have(program: str) -> None:
    name = programs.Program.new(program, units.Request("2Mi", 1)).name
    assert v1alpha1.ObjectMeta(name=name).name == name
