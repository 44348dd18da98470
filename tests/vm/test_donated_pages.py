"""Huge pages in a pool of som.ko, on a machine with two NUMA nodes and others' huge pages."""

import asyncio
import contextlib
import mmap
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator

import pytest

from som_api import v1alpha1
from som_device_plugin import backends, seams
from som_device_plugin.drivers.hugetlbfs import worker
from som_device_plugin.drivers.kernel import abi, control
from som_device_plugin.linux import cgroups, hugepages, mountinfo
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import plan
from vm.numa import PAGE, persistent

MODULE = control.Module()


class Agent:
    """A source and a driver over one state directory."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self.restart()

    def restart(self) -> None:
        """What a new agent finds."""
        made = backends.Backends(self._directory, boot_id="this", guard=plan.Guard())
        backend = made.of(self._order(PAGE))
        self.source, self.driver = backend.source, backend.driver

    @staticmethod
    def _order(capacity_bytes: int) -> v1alpha1.NodePool:
        order = {"name": "donated", "generation": 1, "unit": "2Mi", "capacity": capacity_bytes}
        more = {"source": {"hugeTLB": {"pageSize": "2Mi"}}, "driver": "Kernel"}
        return v1alpha1.NodePool.model_validate({**order, **more})

    def apply(self, pages: int, *, held_bytes: int = 0) -> seams.PoolReserved:
        order = self._order(pages * PAGE)
        return asyncio.run(
            self.source.apply(order, held_bytes=held_bytes, on_progress=lambda _: None)
        )

    def start(self, pages: int) -> seams.Start:
        made = seams.Start(
            seams.LeaseId("0123456789abcdef"), 1, "donated", 0, pages * PAGE, PAGE, "Kernel", 0
        )
        asyncio.run(self.driver.build(made, on_progress=lambda _: None))
        return made

    def release(self) -> None:
        asyncio.run(self.source.release("donated"))


@pytest.fixture
def agent(
    som_ko: None, foreign: dict[int, int], tmp_path: pathlib.Path
) -> Iterator[tuple[Agent, dict[int, int]]]:
    """With nothing yet; and the huge pages of others. In the end these are all there are."""
    yield Agent(tmp_path), foreign
    assert persistent() == foreign
    assert not list(MODULE.pools())
    assert not list(cgroups.find(mountinfo.read()).root.glob("som*"))


def donated() -> dict[int, int]:
    """NUMA node -> pages in som.ko."""
    (pool,) = MODULE.pools()
    return {
        node: MODULE.call(abi.PoolInfo(pool=pool.pool, numa_node=node)).bytes // PAGE
        for node in hugepages.nodes()
    }


@contextlib.contextmanager
def mapped(driver: seams.Driver, start: seams.Start) -> Iterator[mmap.mmap]:
    (device,) = driver.edits(start).devices
    fd = os.open(device.host_path, os.O_RDWR)
    try:
        with mmap.mmap(fd, start.size_bytes) as memory:
            yield memory
    finally:
        os.close(fd)


def test_a_pool_of_huge_pages_lives_in_som_ko(agent: tuple[Agent, dict[int, int]]) -> None:
    ours, foreign = agent
    has = ours.apply(80)
    assert has.capacity_bytes == has.free_bytes == 80 * PAGE
    assert donated() == {0: 40, 1: 40}
    assert persistent() == {node: pages + 40 for node, pages in foreign.items()}
    assert hugepages.machine_counts(PAGE).available == 0

    start = ours.start(16)
    with mapped(ours.driver, start) as memory:
        assert memory.read() == bytes(start.size_bytes)
        memory[:] = b"x" * start.size_bytes
        ours.restart()
        assert asyncio.run(ours.source.reserved("donated")).free_bytes == 64 * PAGE
        # Smaller than what a start holds it does not get.
        assert ours.apply(8).capacity_bytes == 16 * PAGE
        assert sum(persistent().values()) == sum(foreign.values()) + 16
        with pytest.raises(turn.SourceError, match="32Mi are held by containers"):
            ours.release()
        assert memory[:] == b"x" * start.size_bytes
    ours.driver.revoke(start)
    assert ours.apply(24).free_bytes == 24 * PAGE
    again = ours.start(24)
    with mapped(ours.driver, again) as memory:
        assert memory.read() == bytes(again.size_bytes)
    ours.driver.revoke(again)
    ours.release()


def test_a_worker_that_is_killed_loses_no_page(agent: tuple[Agent, dict[int, int]]) -> None:
    ours, _ = agent
    ours.apply(64)
    (pool,) = MODULE.pools()
    outcomes = []
    # The first one is left alone, to see how long it takes; the second one ends at once.
    lives_s = 600.0
    for part in (None, *range(11)):
        remove_all(pool.pool)
        assert hugepages.machine_counts(PAGE).available == 64
        control = MODULE.open()
        words = (control, pool.pool, 64 * PAGE, PAGE, 0)
        process = subprocess.Popen(
            worker.command("donate", *map(str, words)), stdin=subprocess.PIPE, pass_fds=(control,)
        )
        os.close(control)
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(lives_s if part is None else lives_s * part / 10)
        process.kill()
        process.communicate()
        lives_s = time.monotonic() - began if part is None else lives_s
        kept = sum(donated().values())
        outcomes.append(kept)
        assert kept in (0, 64)
        assert hugepages.machine_counts(PAGE).available == 64 - kept
    assert outcomes[:2] == [64, 0]
    asyncio.run(ours.source.refill("donated"))
    assert sum(donated().values()) == 64
    ours.release()


def remove_all(pool: int) -> None:
    while sum(donated().values()):
        span = MODULE.call(abi.PoolSpan(pool=pool))
        MODULE.call(abi.PoolRemove(pool=pool, start=span.start))
