"""Devdax devices, reserved ranges and carved memory on a real kernel: taken, and given back."""

import asyncio
import contextlib
import dataclasses
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from som_api import v1alpha1
from som_device_plugin import database, seams
from som_device_plugin.drivers.kernel import driver, pool
from som_device_plugin.linux import dax, hugepages, iomem, memory_blocks
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import plan as pages
from som_device_plugin.sources.ranges import carved, devdax, external, records, source
from vm import memory
from vm.memory import GIB
from vm.numa import wait_until

MIB = 2**20
SMALL_GUARD = pages.Guard(percent=5, minimum_bytes=256 * MIB)
KINDS = {
    "External": v1alpha1.Source(external=v1alpha1.External(ranges=(memory.RESERVED.written,))),
    "DevDax": v1alpha1.Source(dev_dax=v1alpha1.DevDax(devices=("dax0.*",))),
    "Carved": v1alpha1.Source(carved=v1alpha1.Carved()),
}
ACTS: list[tuple[Any, str]] = [
    (dax, "unbind"),
    (dax, "bind"),
    (memory_blocks, "put_on_line"),
    (memory_blocks, "set_on_adding"),
    (pool.Pool, "add"),
    (pool.Pool, "remove"),
    (pool.Pool, "destroy"),
    (records.RangeRecords, "add_unbound"),
    (records.RangeRecords, "forget_unbound"),
    (records.RangeRecords, "add_carved"),
]
"""Where an agent is killed, before each and after it."""
STEPS = (*range(8), 12, 1000)
"""After how many of these: one of eight blocks is as good as another, and nobody takes the last."""

pytestmark = pytest.mark.usefixtures("som_ko", "devdax", "as_before")


class Agent:
    """The real source of one kind, on a state directory that the next agent finds."""

    def __init__(self, path: Path, kind: str, given: v1alpha1.Source | None = None) -> None:
        self.given = given or KINDS[kind]
        self.db = database.open_database(path / "som.db")
        own = records.RangeRecords(self.db, boot_id="this")
        supplies: dict[str, source.Supply] = {
            "External": external.External(),
            "DevDax": devdax.DevDax(own),
            "Carved": carved.Carved(own, guard=SMALL_GUARD),
        }
        kernel = driver.Kernel(state_dir=path)
        self.source = source.RangeSource(
            supplies[kind], hold_of=lambda name: kernel.ranges(name, kind)
        )

    def apply(self, capacity_bytes: int) -> seams.PoolReserved:
        order = v1alpha1.NodePool(
            name="a",
            generation=1,
            unit="2Mi",
            capacity=capacity_bytes,
            source=self.given,
            driver="Kernel",
        )
        return asyncio.run(self.source.apply(order, held_bytes=0, on_progress=lambda _: None))

    def release(self) -> None:
        asyncio.run(self.source.release("a"))
        self.db.close()


def machine() -> dict[str, Any]:
    return {
        "iomem": all_ranges(),
        "devices": dax.devices(),
        "blocks": memory_blocks.blocks(),
        "on_adding": memory_blocks.on_adding(),
    }


def all_ranges() -> list[iomem.Resource]:
    """Memory that was added again stands beside that of the boot: shown as one."""
    merged: list[iomem.Resource] = []
    for each in iomem.read():
        last = merged[-1] if merged else each
        if each.name == last.name == "System RAM" and each.start == last.end:
            merged[-1] = dataclasses.replace(last, end=each.end)
        else:
            merged.append(each)
    return merged


@pytest.fixture
def as_before() -> Iterator[None]:
    before, total_bytes = machine(), hugepages.memory().total_bytes
    yield
    assert machine() == before
    # Of metadata that was the kernel's own since the boot, pages are counted once it is made again.
    assert 0 <= hugepages.memory().total_bytes - total_bytes <= 16 * MIB


@pytest.mark.parametrize(
    ("kind", "least_bytes", "most_bytes"),
    [("External", 64 * MIB, 512 * MIB), ("DevDax", 64 * MIB, 256 * MIB)],
)
def test_a_pool_of_ranges_grows_shrinks_and_goes(
    kind: str, least_bytes: int, most_bytes: int, tmp_path: Path
) -> None:
    agent = Agent(tmp_path, kind)
    for capacity_bytes in (least_bytes, most_bytes, least_bytes):
        found = agent.apply(capacity_bytes)
        assert (found.capacity_bytes, found.shortfall) == (capacity_bytes, "")
        assert found.node_bytes == {1: capacity_bytes}
    agent.release()


def test_a_device_gives_no_more_than_it_has(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "DevDax")
    found = agent.apply(GIB)
    assert memory.DEVDAX.bytes - 32 * MIB < found.capacity_bytes < memory.DEVDAX.bytes
    assert found.shortfall.endswith(" of 1Gi: the order names no more than this")
    agent.release()


def test_carved_memory_leaves_with_its_metadata_and_comes_back(tmp_path: Path) -> None:
    total_bytes = hugepages.memory().total_bytes
    agent = Agent(tmp_path, "Carved")
    found = agent.apply(GIB)
    assert found.node_bytes == {1: GIB}, "node 0 has nothing that can be moved away"
    assert total_bytes - hugepages.memory().total_bytes == GIB - 16 * MIB
    found = agent.apply(2 * GIB)
    assert found.node_bytes == {1: GIB}
    assert found.shortfall.startswith("1Gi of 2Gi: no memory that can be moved away on NUMA node 0")
    assert agent.apply(GIB).capacity_bytes == GIB
    agent.release()


def test_more_than_the_node_can_spare_is_not_carved(tmp_path: Path) -> None:
    with pytest.raises(turn.SourceError, match="the largest capacity now is"):
        Agent(tmp_path, "Carved").apply(64 * GIB)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (memory.CARVABLE.written, "is System RAM; keep it from the kernel"),
        (memory.ABSENT.written, "has no memory behind it"),
        ("0x800000000-0x80fffffff", "is nothing that the kernel knows"),
    ],
    ids=["ram", "absent", "unknown"],
)
def test_a_range_that_is_not_ours_to_take_is_named(written: str, why: str, tmp_path: Path) -> None:
    given = v1alpha1.Source(external=v1alpha1.External(ranges=(written,)))
    agent = Agent(tmp_path, "External", given)
    found = agent.apply(2 * MIB)
    assert (found.capacity_bytes, found.shortfall[:12]) == (0, "0Mi of 2Mi: ")
    assert why in found.shortfall
    agent.release()


def test_a_device_that_somebody_has_open_or_mapped_is_left_alone(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "DevDax")
    fd = os.open("/dev/dax0.0", os.O_RDWR)
    opened = agent.apply(64 * MIB)
    memory_of_it = mmap.mmap(fd, 2 * MIB)
    os.close(fd)
    mapped = agent.apply(64 * MIB)
    memory_of_it[0] = 1
    memory_of_it.close()
    for found in (opened, mapped):
        assert found.capacity_bytes == 0
        assert f"dax0.0 is in use by pid {os.getpid()} (" in found.shortfall
    assert agent.apply(64 * MIB).shortfall == ""
    agent.release()


def test_a_pattern_that_no_device_has_takes_nothing(tmp_path: Path) -> None:
    given = v1alpha1.Source(dev_dax=v1alpha1.DevDax(devices=("dax9.*",)))
    agent = Agent(tmp_path, "DevDax", given)
    assert agent.apply(2 * MIB).shortfall == (
        "0Mi of 2Mi: no devdax device is named dax9.*; this node has: dax0.0"
    )
    agent.release()


@pytest.mark.parametrize(
    ("kind", "first", "then"),
    [
        ("External", 0, 64 * MIB),
        ("External", 64 * MIB, 16 * MIB),
        ("DevDax", 0, 64 * MIB),
        ("DevDax", 64 * MIB, 0),
        ("Carved", 0, GIB),
        ("Carved", GIB, 0),
    ],
)
def test_an_agent_killed_at_any_step_leaves_what_the_next_one_finishes(
    kind: str, first: int, then: int, tmp_path: Path
) -> None:
    before = machine()
    for steps in STEPS:
        path = tmp_path / str(steps)
        path.mkdir()
        if first:
            Agent(path, kind).apply(first)
        was_killed = killed_after(steps, path, kind, then)
        agent = Agent(path, kind)
        if then:
            assert agent.apply(then).capacity_bytes == then
        agent.release()
        assert machine() == before
        if not was_killed:
            return


def test_an_agent_killed_while_the_kernel_carves_is_followed_by_one_that_can(
    tmp_path: Path,
) -> None:
    before = machine()
    for number, delay_s in enumerate((0.2, 0.6, 1.0, 1.5)):
        path = tmp_path / str(number)
        path.mkdir()
        pid = os.fork()
        if not pid:
            signal.setitimer(signal.ITIMER_REAL, delay_s)  # SIGALRM ends a process.
            change(Agent(path, "Carved"), GIB)
            os._exit(0)
        os.waitpid(pid, 0)
        carve_and_release(Agent(path, "Carved"))
        assert machine() == before


def carve_and_release(agent: Agent) -> None:
    wait_until(
        lambda: agent.apply(GIB).capacity_bytes == GIB,
        what="the memory is free of the process that is gone",
    )
    agent.release()


def change(agent: Agent, capacity_bytes: int) -> None:
    if capacity_bytes:
        agent.apply(capacity_bytes)
    else:
        agent.release()


def killed_after(steps: int, path: Path, kind: str, capacity_bytes: int) -> bool:
    """Whether an agent was killed that carries out an order, after so many halves of acts."""
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), status
        return status != 0
    with contextlib.suppress(BaseException):
        left = iter(range(steps))
        for owner, name in ACTS:
            setattr(owner, name, _deadly(getattr(owner, name), left))
        change(Agent(path, kind), capacity_bytes)
        os._exit(0)
    os._exit(1)


def _deadly(act: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    def half() -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(*arguments: Any, **named: Any) -> Any:
        half()
        result = act(*arguments, **named)
        half()
        return result

    return deadly
