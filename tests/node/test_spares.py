"""Spares of real pages: adopted, cut, given up and shrunk; the agent is killed meanwhile."""

import contextlib
import os
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator

import pytest

from node import local_node, machine

MIB = local_node.MIB
POOL_UNITS = 32
KILLED_BUILDING = [
    ("leases.store:LeaseStore.add_spare", "after"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.build", "during"),
]
KILLED_ADOPTING = [
    ("leases.store:LeaseStore.adopt", "after"),
    ("drivers.hugetlbfs.driver:HugeTLBFS._cut", "before"),
    ("drivers.hugetlbfs.driver:HugeTLBFS._cut", "after"),
]


@pytest.fixture
def node() -> Iterator[local_node.LocalNode]:
    with (
        tempfile.TemporaryDirectory(prefix="som-") as path,
        local_node.started(pathlib.Path(path)) as started,
    ):
        started.order(POOL_UNITS * 2 * MIB)
        started.start_agent()
        started.wait_pool(capacity="64Mi")
        yield started


def name(step: tuple[str, str]) -> str:
    return f"{step[1]} {step[0].partition(':')[2]}"


def spares(node: local_node.LocalNode) -> dict[str, int]:
    """What is zeroed ahead: name on the node -> units."""
    query = """
    SELECT lease_id, starts.size_bytes FROM starts JOIN leases USING (lease_id)
    WHERE ticket = '' AND NOT ended AND state = 'ready'
    """
    with contextlib.closing(sqlite3.connect(node.state_dir.path / "som.db")) as store:
        return {place: size // (2 * MIB) for place, size in store.execute(query)}


def wait_spares(node: local_node.LocalNode, *units: int) -> None:
    machine.wait_until(
        lambda: sorted(spares(node).values()) == sorted(units),
        what=f"spares of {units} units",
        then=lambda: f"there are {spares(node)}\n{node.log_text()}",
        deadline_s=60,
    )


def adopted(node: local_node.LocalNode) -> bool:
    """Whether the only container has what was zeroed ahead of it."""
    with contextlib.closing(sqlite3.connect(node.state_dir.path / "som.db")) as store:
        query = "SELECT built_as FROM starts WHERE state = 'delivered'"
        ((built_as,),) = store.execute(query).fetchall()
    return bool(built_as)


def run(node: local_node.LocalNode, units: int) -> bool:
    """A program of so many units comes and goes; whether its memory was warm."""
    program = local_node.Program(node.state_dir, units)
    assert program.found() == f"zero {units * 2 * MIB}", node.log_text()
    was_warm = adopted(node)
    free_mib = (POOL_UNITS - units) * 2
    node.wait_pool(allocated=f"{units * 2}Mi", free=f"{free_mib}Mi" if free_mib else "0")
    assert program.end() == "kept"
    node.wait_pool(allocated="0", free="64Mi")
    return was_warm


def test_freed_memory_is_zeroed_ahead_adopted_cut_and_given_up(node: local_node.LocalNode) -> None:
    assert not run(node, 16)
    wait_spares(node, 16)
    assert run(node, 16), "of its size"
    wait_spares(node, 16)
    assert run(node, 12), "the smallest larger one, cut"
    wait_spares(node, 12, 16)

    # Whoever is root may do that; what is left of it is no container's.
    (place,) = (place for place, units in spares(node).items() if units == 16)
    os.truncate(node.state_dir.path / "leases" / place / "som", 2 * MIB)
    run(node, 16)
    wait_spares(node, 12, 16)

    node.kill_agent()
    node.start_agent()
    node.wait_registered()
    assert run(node, 16), "found again by the next agent"
    wait_spares(node, 12, 16)
    assert not run(node, POOL_UNITS), "of the pages of all spares"

    wait_spares(node, 32)
    node.order(16 * MIB)
    node.wait_pool(capacity="16Mi", free="16Mi")


@pytest.mark.parametrize("step", KILLED_BUILDING, ids=name)
def test_agent_killed_while_it_builds_a_spare(
    node: local_node.LocalNode, step: tuple[str, str]
) -> None:
    program = local_node.Program(node.state_dir, 16)
    assert program.found() == "zero 33554432"
    node.kill_agent()
    node.start_agent(killed_at=step)
    node.wait_registered()
    assert program.end() == "kept"
    node.wait_killed()
    node.start_agent()
    node.wait_registered()
    wait_spares(node, 16)
    assert run(node, 16)


@pytest.mark.parametrize("step", KILLED_ADOPTING, ids=name)
def test_agent_killed_while_a_container_adopts_a_spare(
    node: local_node.LocalNode, step: tuple[str, str]
) -> None:
    run(node, 16)
    wait_spares(node, 16)
    node.kill_agent()
    node.start_agent(killed_at=step)
    node.wait_registered()
    program = local_node.Program(node.state_dir, 12)
    node.wait_killed()
    node.start_agent()
    node.wait_registered()
    found = program.found()
    if not found:
        program.end()
        program = local_node.Program(node.state_dir, 12)
        found = program.found()
    assert found == "zero 25165824", node.log_text()
    assert program.end() == "kept"
    node.wait_pool(allocated="0", free="64Mi")
