"""Containers, admins and other programs move huge pages between NUMA nodes: nothing grows.

The tests share one pool, of which each moves pages from node 0 to node 1.
"""

import ctypes
import mmap
import os
import pathlib

import pytest

from node import claims, local_node
from som_device_plugin.linux import hugepages
from vm.numa import PAGE, persistent, said, shares, used, wait_until

MOVE_PAGES = 279
MPOL_MF_MOVE = 2
EACH = 40
"""Pages of the pool on each node, at first."""


@pytest.fixture(scope="module")
def pool(node: local_node.LocalNode) -> local_node.LocalNode:
    """The node with its pool. The agent, and so its workers, run on the processor of node 1."""
    node.order(2 * EACH * PAGE)
    start_agent(node)
    wait_until(lambda: shares(node) == {0: EACH, 1: EACH}, what="the pool", then=node.log_text)
    return node


def start_agent(node: local_node.LocalNode) -> None:
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {1})
    node.start_agent()
    os.sched_setaffinity(0, everywhere)


class Owner(claims.Claim):
    """An owner of 8 pages that has filled them, and what each NUMA node had before."""

    def __init__(self, node: local_node.LocalNode) -> None:
        super().__init__(node, 8, program="/programs/claim")
        found = self.answer(deadline_s=120)
        assert found == f"zero {8 * PAGE}", node.log_text()[-4000:]
        assert self.answer("fill 7") == "filled"
        self._node = node
        self.look()

    def look(self) -> None:
        """What moves from now on is compared with what there is now."""
        # A free page of nobody is where the kernel would move one to.
        wait_until(
            lambda: hugepages.machine_counts(PAGE).available == 0,
            what="the hold has every free page",
        )
        self._shares, self._persistent = shares(self._node), persistent()

    def moves(self, *, page: int) -> None:
        """Move one page from node 0 to node 1; when the agent knows, it has looked at all else."""
        self.look()
        assert self.answer(f"move 1 {page} 1") == "moved"
        self.has_moved(1)

    def has_moved(self, pages: int) -> None:
        """The agent knows of `pages` that went from node 0 to node 1; nothing else has changed."""
        wait_until(
            lambda: shares(self._node) == after(self._shares, pages),
            what=f"shares that follow {pages} moved pages",
            then=lambda: f"the kernel has {persistent()}, som says {shares(self._node)}",
        )
        assert persistent() == after(self._persistent, pages)

    def end(self, *, deadline_s: float = 60) -> int:
        assert self.answer("check") == "kept"
        return super().end(deadline_s=deadline_s)


def after(counts: dict[int, int], pages: int) -> dict[int, int]:
    return {0: counts[0] - pages, 1: counts[1] + pages}


def test_a_start_has_its_pages_on_the_node_of_its_ticket(pool: local_node.LocalNode) -> None:
    owner = Owner(pool)
    assert '"n0-' in pool.state_dir.pods.read_text()
    # Without a preference they would be where the worker runs, on node 1.
    assert owner.nodes() == [0] * 8
    owner.end()


@pytest.mark.parametrize("pages", [1, 8])
def test_what_an_owner_moves_to_another_node_takes_no_page_from_the_machine(
    pool: local_node.LocalNode, pages: int
) -> None:
    owner = Owner(pool)
    assert owner.answer(f"move 1 0 {pages}") == "moved"
    assert owner.nodes() == [1] * pages + [0] * (8 - pages)
    owner.has_moved(pages)
    owner.end()


def test_a_change_of_the_cpuset_moves_all_pages_and_takes_none(pool: local_node.LocalNode) -> None:
    owner = Owner(pool)
    group = pathlib.Path("/sys/fs/cgroup/cpuset-of-an-admin")
    group.mkdir()
    (group / "cpuset.mems").write_text("0")
    for process in descendants(owner.process.pid):
        (group / "cgroup.procs").write_text(str(process))
    (group / "cpuset.mems").write_text("1")
    wait_until(lambda: owner.nodes() == [1] * 8, what="the kernel has moved all pages")
    owner.has_moved(8)
    owner.end()
    group.rmdir()


def test_an_agent_that_comes_back_after_a_move_finds_its_pages_where_they_are(
    pool: local_node.LocalNode,
) -> None:
    owner = Owner(pool)
    pool.kill_agent()
    assert owner.answer("move 1 2 3") == "moved"
    start_agent(pool)
    owner.has_moved(3)
    owner.end()


def test_pages_that_a_stranger_adds_and_takes_away_on_one_node_stay_his(
    pool: local_node.LocalNode,
) -> None:
    owner = Owner(pool)
    hugepages.write_persistent(PAGE, 1, persistent()[1] + 6)
    with used(6):
        owner.moves(page=0)
    hugepages.write_persistent(PAGE, 1, persistent()[1] - 6)
    owner.moves(page=1)
    owner.end()


def test_the_end_of_a_pool_leaves_each_node_as_it_was_before_though_a_stranger_moved_a_page(
    pool: local_node.LocalNode, foreign: dict[int, int]
) -> None:
    owner = Owner(pool)
    hugepages.write_persistent(PAGE, 1, persistent()[1] + 1)
    with used(1) as memory:
        # When the agent knows of this move, it knows the stranger's page too.
        owner.moves(page=0)
        owner.end()
        move(memory, node=0)
        pool.order(0)
        wait_until(lambda: said(pool) == [], what="the pool is gone")
        counts = {node: hugepages.node_counts(PAGE, node) for node in foreign}
        assert [(of.total, of.free) for of in counts.values()] == [(6, 0), (3, 0)], counts
    hugepages.write_persistent(PAGE, 0, persistent()[0] - 1)
    assert persistent() == foreign


def move(memory: mmap.mmap, *, node: int) -> None:
    """Move a page of this process, as migratepages(8) does from outside (move_pages(2))."""
    here = ctypes.c_char.from_buffer(memory)
    address = ctypes.c_void_p(ctypes.addressof(here))
    status = ctypes.c_int(-1)
    libc = ctypes.CDLL(None, use_errno=True)
    refs = (ctypes.byref(address), ctypes.byref(ctypes.c_int(node)), ctypes.byref(status))
    failed = libc.syscall(MOVE_PAGES, 0, ctypes.c_ulong(1), *refs, MPOL_MF_MOVE)
    del here
    assert (failed, status.value) == (0, node), os.strerror(ctypes.get_errno())


def descendants(process: int) -> list[int]:
    """`process` and all below it."""
    children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(each for child in children for each in descendants(int(child)))]
