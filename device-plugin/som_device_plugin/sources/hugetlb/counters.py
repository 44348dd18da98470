"""The kernel's counters of huge pages, changed under a lock and a record of the intention."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Final

from som_device_plugin import seams
from som_device_plugin.linux import flocks, hugepages
from som_device_plugin.sources.hugetlb import accounts, plan, records

LOCK_TIMEOUT_S: Final = 30.0
"""A step of another agent that has the kernel look for 1 GiB of memory takes seconds."""

_BASE_PAGE_BYTES: Final = 4096


class Counters:
    """Persistent huge pages by NUMA node. Everything but `locked` needs the lock.

    What is judged on the way is told by `take_events`.

    Args:
        lock: a directory that is made while somebody changes counters, the same for every som of
            the machine, which only root can open.
        neighbours_bytes: what pools of other soms of the machine have, by page size.
    """

    def __init__(
        self,
        page_records: records.PageRecords,
        *,
        guard: plan.Guard,
        lock: pathlib.Path,
        neighbours_bytes: Callable[[int], int],
    ) -> None:
        self._records = page_records
        self.guard = guard
        self._lock = lock
        self._neighbours_bytes = neighbours_bytes
        self._events: list[seams.Event] = []
        self._errors_known = hugepages.memory().corrupted_bytes

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other som process of the machine, and no other thread, changes counters meanwhile.

        Raises:
            LockHeld: not within 30 s; says who has the lock.
        """
        # Writes are absolute: two agents of one machine have to take turns.
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, _locked_directory(self._lock))
            stack.callback(self._remove_unneeded)
            yield

    def _remove_unneeded(self) -> None:
        if not self._records.pools():
            with contextlib.suppress(OSError):
                self._lock.rmdir()

    def take_events(self) -> list[seams.Event]:
        """What was found and judged since the last call."""
        events, self._events = self._events, []
        return events

    def room_pages(self, page_bytes: int) -> int:
        """How many pages more the guard allows now."""
        memory = hugepages.memory()
        keep_bytes = self.guard.keep_bytes(total_bytes=memory.total_bytes)
        return max(memory.available_bytes - keep_bytes, 0) // page_bytes

    def change(self, pool: str, page_bytes: int, node: int, pages: int) -> int:
        """Add `pages` (below 0: take them away) to the pool's on `node`; how many it became.

        The caller has settled. The kernel adds what it can; taking pages that somebody uses
        makes surplus pages of them, which leave when their user ends.
        """
        before = self._records.pages(pool)
        self._records.intend(pool, page_bytes, node, before[node] + pages)
        there = hugepages.node_counts(page_bytes, node).persistent
        hugepages.write_persistent(page_bytes, node, max(there + pages, 0))
        self.settle(page_bytes, after_change=True)
        return sum(self._records.pages(pool).values()) - sum(before.values())

    def settle(self, page_bytes: int, *, after_change: bool = False) -> None:
        """Find out whose the pages are, and add what somebody has lost by others' writes."""
        found, settled = self._look(page_bytes)
        if settled.doubted and not after_change:
            self._events.append(_doubted(page_bytes, settled))
        if settled.missing:
            self._add(page_bytes, found, settled.missing)
            found_after, after = self._look(page_bytes)
            short = max(found.total + sum(settled.missing.values()) - found_after.total, 0)
            self._events.append(_corrected(page_bytes, settled.cause, found, after, short))
        elif settled.cause is accounts.Cause.TAKEN and _strangers(settled) < settled.ledger.setting:
            self._events.append(_taken(page_bytes, settled))

    def _look(self, page_bytes: int) -> tuple[accounts.Found, accounts.Settled]:
        ledger = self._records.ledger(page_bytes)
        found, settled = self._judge(page_bytes, ledger)
        # A page of others that moved is counted where it was: what we take on a node may be theirs,
        # in use, and ours stay free elsewhere. The intention to take is still on record.
        taken = _ours(ledger) - _ours(settled.ledger)
        if taken > 0 and hugepages.swap_surplus(page_bytes, taken):
            found, settled = self._judge(page_bytes, ledger)
        if settled.cause is accounts.Cause.MEMORY_ERROR:
            self._errors_known += sum(settled.missing.values()) * _BASE_PAGE_BYTES
        if settled.ledger != ledger:
            self._records.save(page_bytes, settled.ledger)
        return found, settled

    def _judge(
        self, page_bytes: int, ledger: accounts.Ledger
    ) -> tuple[accounts.Found, accounts.Settled]:
        machine = hugepages.machine_counts(page_bytes)
        errors = hugepages.memory().corrupted_bytes
        found = accounts.Found(
            total=machine.persistent,
            nodes={
                node: hugepages.node_counts(page_bytes, node).persistent
                for node in hugepages.nodes()
            },
            # With overcommit, programs have surplus pages without anybody's fault.
            surplus=0 if machine.overcommit else machine.surplus,
            neighbours=self._neighbours_bytes(page_bytes) // page_bytes,
            lost=max(errors - self._errors_known, 0) // _BASE_PAGE_BYTES,
        )
        return found, accounts.settle(found, ledger)

    def _add(self, page_bytes: int, found: accounts.Found, missing: accounts.Nodes) -> None:
        total = found.total + sum(missing.values())
        hugepages.adopt_surplus(page_bytes, sum(missing.values()))
        for node, pages in missing.items():
            there = hugepages.node_counts(page_bytes, node).persistent
            lacking = min(
                found.nodes[node] + pages - there,
                total - hugepages.machine_counts(page_bytes).persistent,
                self.room_pages(page_bytes),
            )
            if lacking > 0:
                hugepages.write_persistent(page_bytes, node, there + lacking)


def _locked_directory(path: pathlib.Path) -> int:
    """An fd of the directory `path`, made if need be, with the lock; closing it lets go.

    Who has the lock may remove the directory: then the next one is locked.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            flocks.take(directory, f"the machine's huge pages ({path})", timeout_s=LOCK_TIMEOUT_S)
            if os.path.samestat(os.fstat(directory), path.stat()):
                stack.pop_all()
                return directory


def _strangers(settled: accounts.Settled) -> int:
    return sum((settled.ledger.strangers or {}).values())


def _ours(ledger: accounts.Ledger) -> int:
    return sum(sum(share.pages.values()) for share in ledger.pools.values())


def _doubted(page_bytes: int, settled: accounts.Settled) -> seams.Event:
    return seams.Event(
        reason="HugePagesCounted",
        message=f"the agent ended while it changed {plan.human_bytes(page_bytes)} huge pages: "
        f"{settled.doubted} that it may have added are counted as som's. Pages that another "
        "program added meanwhile are among them",
    )


def _taken(page_bytes: int, settled: accounts.Settled) -> seams.Event:
    strangers, ours = _strangers(settled), _ours(settled.ledger)
    return seams.Event(
        reason="HugePagesTakenAway",
        message=f"other programs have {strangers} {plan.human_bytes(page_bytes)} huge pages now, "
        f"{settled.ledger.setting - strangers} fewer than they had set; som's {ours} are all "
        f"there. If others need N, write {ours} + N to nr_hugepages",
    )


def _corrected(
    page_bytes: int,
    cause: accounts.Cause,
    found: accounts.Found,
    after: accounts.Settled,
    short: int,
) -> seams.Event:
    return seams.Event(
        reason="HugePagesRewritten" if cause is accounts.Cause.REWRITTEN else "HugePagesLost",
        message=f"{plan.human_bytes(page_bytes)} huge pages were {cause.value}: {found.total} "
        f"found ({found.surplus} more in use as surplus); what was missing is added again"
        f"{f', but for {short} pages' if short else ''}: som has {_ours(after.ledger)}, other "
        f"programs {_strangers(after)}; if these need none, write 0 to nr_hugepages",
        warning=True,
    )
