"""SIGKILL at each named step of a lease's life: no lease lost, no page leaked, none used twice."""

import pathlib
import tempfile
from collections.abc import Iterator

import pytest

from node import local_node, machine

STARTING = [
    ("leases.store:LeaseStore.name", "before"),
    ("leases.store:LeaseStore.name", "after"),
    ("leases.store:LeaseStore.bind", "before"),
    ("leases.store:LeaseStore.bind", "after"),
    ("leases.store:LeaseStore.add_start", "before"),
    ("leases.store:LeaseStore.add_start", "after"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.build", "before"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.build", "during"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.build", "after"),
    ("leases.store:LeaseStore.set_state=ready", "before"),
    ("leases.store:LeaseStore.set_state=ready", "after"),
    ("cdi:Specs.write", "before"),
    ("cdi:Specs.write", "after"),
    ("leases.store:LeaseStore.set_state=delivered", "before"),
    ("leases.store:LeaseStore.set_state=delivered", "after"),
]
ENDING = [
    ("leases.store:LeaseStore.end", "before"),
    ("leases.store:LeaseStore.end", "after"),
    ("leases.store:LeaseStore.set_state=releasing", "before"),
    ("leases.store:LeaseStore.set_state=releasing", "after"),
    ("cdi:Specs.remove", "before"),
    ("cdi:Specs.remove", "after"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.revoke", "before"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.revoke", "after"),
    ("leases.store:LeaseStore.forget_start", "before"),
    ("leases.store:LeaseStore.forget_start", "after"),
    ("leases.store:LeaseStore.forget_ended", "before"),
    ("drivers.hugetlbfs.driver:HugeTLBFS.remove_path", "before"),
]
POOL = [
    ("sources.hugetlb.source:HugeTLBSource.apply", "during"),
    ("sources.hugetlb.counters:Counters.change", "before"),
    ("sources.hugetlb.counters:Counters.change", "after"),
]
UNITS = 32


@pytest.fixture
def state_dir() -> Iterator[pathlib.Path]:
    """A short one: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="som-") as path:
        yield pathlib.Path(path)


def name(step: tuple[str, str]) -> str:
    return f"{step[1]} {step[0].partition(':')[2]}"


def all_free(node: local_node.LocalNode) -> None:
    node.wait_pool(capacity="64Mi", allocated="0", free="64Mi")
    machine.wait_until(lambda: node.leases() == 0, what="no lease is left in the store")
    assert list(node.state_dir.cdi.iterdir()) == [], "no spec is left"


@pytest.mark.parametrize("step", STARTING, ids=name)
def test_agent_killed_while_a_lease_starts(step: tuple[str, str], state_dir: pathlib.Path) -> None:
    with local_node.started(state_dir) as node:
        node.order(64 * local_node.MIB)
        node.start_agent(killed_at=step)
        node.wait_pool(capacity="64Mi")
        node.wait_registered()
        program = local_node.Program(node.state_dir, UNITS)
        node.wait_killed()
        node.start_agent()
        found = program.found()
        if not found:  # kubelet was refused at admission; its pod is tried again
            program.end()
            node.wait_registered()
            program = local_node.Program(node.state_dir, UNITS)
            found = program.found()
        assert found == "zero 67108864", node.log_text()
        node.wait_pool(capacity="64Mi", allocated="64Mi", free="0")
        assert program.end() == "kept"
        all_free(node)


@pytest.mark.parametrize("step", ENDING, ids=name)
def test_agent_killed_while_a_lease_ends(step: tuple[str, str], state_dir: pathlib.Path) -> None:
    with local_node.started(state_dir) as node:
        node.order(64 * local_node.MIB)
        node.start_agent(killed_at=step)
        node.wait_pool(capacity="64Mi")
        node.wait_registered()
        first = local_node.Program(node.state_dir, UNITS)
        assert first.found() == "zero 67108864", node.log_text()
        assert first.end() == "kept"
        node.wait_killed()
        node.start_agent()
        node.wait_registered()
        second = local_node.Program(node.state_dir, UNITS)
        assert second.found() == "zero 67108864", node.log_text()
        assert second.end() == "kept"
        all_free(node)


@pytest.mark.parametrize("step", POOL, ids=name)
@pytest.mark.parametrize(("before", "after"), [("64Mi", "256Mi"), ("256Mi", "64Mi")])
def test_agent_killed_while_a_pool_changes(
    step: tuple[str, str], before: str, after: str, state_dir: pathlib.Path
) -> None:
    def capacity_bytes(quantity: str) -> int:
        return int(quantity.removesuffix("Mi")) * local_node.MIB

    with local_node.started(state_dir) as node:
        node.order(capacity_bytes(before))
        node.start_agent()
        node.wait_pool(capacity=before)
        owner = local_node.Program(node.state_dir, UNITS // 2)
        assert owner.found() == "zero 33554432"
        node.kill_agent()
        node.order(capacity_bytes(after))
        node.start_agent(killed_at=step)
        node.wait_killed()
        node.start_agent()
        node.wait_pool(capacity=after, allocated="32Mi")
        assert owner.end() == "kept"
        node.wait_pool(capacity=after, allocated="0", free=after)


def test_a_program_runs_on_undisturbed_while_its_agent_is_killed_and_comes_back(
    state_dir: pathlib.Path,
) -> None:
    with local_node.started(state_dir) as node:
        node.order(64 * local_node.MIB)
        node.start_agent()
        node.wait_pool(capacity="64Mi")
        program = local_node.Program(node.state_dir, UNITS)
        assert program.found() == "zero 67108864"
        for _ in range(2):
            node.kill_agent()
            node.start_agent()
            node.wait_pool(allocated="64Mi")
        assert program.end() == "kept"
        all_free(node)
