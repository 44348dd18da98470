"""The kernel's counters of huge pages, changed under a lock and a record of the intention."""

import contextlib
import fcntl
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Final

from som_device_plugin import seams
from som_device_plugin.linux import hugepages
from som_device_plugin.sources import plan, records

# Writes are absolute: two agents of one machine (two state directories) must take turns. This
# directory is the machine's own in every agent's container too, and flock needs no writing.
_LOCK: Final = pathlib.Path("/sys/fs/cgroup")
_BASE_PAGE_BYTES: Final = 4096


class Counters:
    """Persistent huge pages by NUMA node. Everything but `locked` needs the lock."""

    def __init__(self, page_records: records.PageRecords, *, guard: plan.Guard) -> None:
        self._records = page_records
        self._guard = guard
        self._threads = threading.Lock()
        self._wishes: dict[tuple[int, int], int] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other som process of the machine, and no other thread, changes counters meanwhile."""
        with self._threads:
            directory = os.open(_LOCK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
                yield
            finally:
                os.close(directory)

    def room_pages(self, page_bytes: int) -> int:
        """How many pages more the guard allows now."""
        memory = hugepages.memory()
        keep_bytes = self._guard.keep_bytes(total_bytes=memory.total_bytes)
        return max(memory.available_bytes - keep_bytes, 0) // page_bytes

    def settle(self, page_bytes: int) -> list[seams.Event]:
        """Find out whose the pages of every node are, and restore the pools' if need be."""
        found = {node: hugepages.node_counts(page_bytes, node) for node in hugepages.nodes()}
        settled = {node: self._look(page_bytes, node) for node in found}
        missing = {node: each.write for node, each in settled.items() if each.write is not None}
        if missing and any(counts.surplus for counts in found.values()):
            hugepages.adopt_surplus(page_bytes)
        events = []
        for node, pages in missing.items():
            counts = hugepages.node_counts(page_bytes, node)
            allowed = counts.persistent + self.room_pages(page_bytes)
            hugepages.write_persistent(page_bytes, node, min(pages, allowed))
            after = hugepages.node_counts(page_bytes, node)
            events.append(_rewritten(page_bytes, node, settled[node], found[node], after))
        if missing:
            for node in found:
                self._look(page_bytes, node)
        return events

    def change(self, pool: str, page_bytes: int, node: int, pages: int) -> int:
        """Add `pages` (below 0: take them away) to the pool's on `node`; how many it became.

        The caller has settled. The kernel adds what it can; taking pages that somebody uses
        makes surplus pages of them, which leave when their user ends.
        """
        before = self._records.pages(pool)[node]
        self._records.intend(pool, page_bytes, node, before + pages)
        total = hugepages.node_counts(page_bytes, node).persistent
        hugepages.write_persistent(page_bytes, node, max(total + pages, 0))
        self._look(page_bytes, node)
        return self._records.pages(pool)[node] - before

    def _look(self, page_bytes: int, node: int) -> plan.Settled:
        foreign = self._records.foreign(page_bytes, node)
        shares = self._records.shares(page_bytes, node)
        counts = hugepages.node_counts(page_bytes, node)
        settled = plan.settle(
            found=counts.persistent,
            foreign=foreign,
            shares=shares,
            surplus=counts.surplus,
            wish=self._wishes.get((page_bytes, node), foreign),
            corrupted=hugepages.memory().corrupted_bytes // _BASE_PAGE_BYTES,
        )
        if foreign is None or settled.cause is plan.Cause.REWRITTEN:
            self._wishes[page_bytes, node] = settled.foreign
        else:
            self._wishes.setdefault((page_bytes, node), foreign)
        if settled.foreign != foreign or list(settled.shares) != shares:
            self._records.save(page_bytes, node, settled)
        return settled


def _rewritten(
    page_bytes: int,
    node: int,
    settled: plan.Settled,
    before: hugepages.NodeCounts,
    after: hugepages.NodeCounts,
) -> seams.Event:
    assert settled.cause is not None and settled.write is not None
    outcome = "restored" if after.persistent >= settled.write else "not all could be had again"
    return seams.Event(
        reason="HugePagesRewritten" if settled.cause is plan.Cause.REWRITTEN else "HugePagesLost",
        message=f"{plan.human_bytes(page_bytes)} huge pages of NUMA node {node} were "
        f"{settled.cause.value}: {before.persistent} found ({before.surplus} more in use as "
        f"surplus), {after.persistent} now, {settled.foreign} of them not som's: {outcome}",
        warning=True,
    )


def overcommit(page_bytes: int) -> str:
    """What is wrong with overcommit and its cure, or ""."""
    pages = hugepages.machine_counts(page_bytes).overcommit
    if not pages:
        return ""
    return (
        f"nr_overcommit_hugepages of {plan.human_bytes(page_bytes)} pages is {pages}: the kernel "
        "would take memory past every guard; set vm.nr_overcommit_hugepages=0, also in "
        "/etc/sysctl.d"
    )
