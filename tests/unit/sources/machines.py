"""A machine with huge pages, agents that keep pools on it, and strangers who write the counters."""

import asyncio
import collections
import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping
from unittest import mock

from fakes import node
from fakes.huge_pages import PAGE, HugePages
from som_device_plugin import database, seams
from som_device_plugin.linux import hugepages
from som_device_plugin.sources.hugetlb import accounts, counters, plan, records, source


class Machine:
    """`theirs` is what strangers have, `in_use` how many of these they use."""

    def __init__(self, path: pathlib.Path, *, nodes: int = 2, theirs: int = 0) -> None:
        self.root = path
        self.kernel = HugePages(nodes)
        self.kernel.write(None, theirs)
        self.theirs = theirs
        self.in_use = 0
        self.agents: list[Agent] = []

    def agent(self) -> "Agent":
        """One more state directory."""
        self.agents.append(Agent(self, self.root / f"agent{len(self.agents)}"))
        return self.agents[-1]

    @contextlib.contextmanager
    def running(self) -> Iterator["Machine"]:
        """With steps of 16 pages."""
        with self.kernel.installed(), mock.patch.object(plan, "GIB", 16 * PAGE):
            yield self
            for agent in self.agents:
                agent.close()


class Hold:
    """Implements `seams.Hold` of a pool that has no starts."""

    def __init__(self, kernel: HugePages) -> None:
        self._kernel = kernel
        self.pages = 0

    @contextlib.contextmanager
    def locked(self) -> Iterator[seams.Holding]:
        yield seams.Holding(free_bytes=self.pages * PAGE, held_bytes=0)

    def free_pages(self) -> Mapping[int, int]:
        return {each: hugepages.node_counts(PAGE, each).free for each in hugepages.nodes()}

    def shrink(self, free_bytes: int, *, node: int | None = None) -> None:
        self._kernel.use(free_bytes // PAGE - self.pages)
        self.pages = free_bytes // PAGE

    def fill(self, node_bytes: Mapping[int, int]) -> None:
        pool_bytes = sum(node_bytes.values())
        free = sum(self._kernel.total.values()) - self._kernel.used
        self.shrink(min(pool_bytes, (self.pages + free) * PAGE))

    def remove(self) -> None:
        assert not self.pages


class Agent:
    """The real source; the holds, which outlive it, are numbers."""

    def __init__(self, machine: Machine, state_dir: pathlib.Path) -> None:
        self._machine = machine
        self._state_dir = state_dir
        state_dir.mkdir()
        self.ordered: dict[str, int] = {}
        self._holds = collections.defaultdict[str, Hold](lambda: Hold(machine.kernel))
        self._loop = asyncio.Runner()
        self._start()

    @property
    def hold(self) -> int:
        return sum(hold.pages for hold in self._holds.values())

    def _neighbours_bytes(self, _page_bytes: int) -> int:
        return sum(agent.hold * PAGE for agent in self._machine.agents if agent is not self)

    def _start(self) -> None:
        self._db: sqlite3.Connection = database.open_database(self._state_dir / "som.db")
        self._db.execute("PRAGMA synchronous = OFF")
        self.records = records.PageRecords(self._db, boot_id="this")
        self.counters = counters.Counters(
            self.records,
            guard=plan.Guard(),
            lock=self._machine.root / "som.lock",
            neighbours_bytes=self._neighbours_bytes,
        )
        self.source = source.HugeTLBSource(
            self.records,
            self.counters,
            hold_of=dict.fromkeys(("HugeTLBFS", "Kernel"), lambda pool, _page: self._holds[pool]),
        )

    def restart(self) -> None:
        """What a new agent finds."""
        self._db.close()
        self._start()

    def close(self) -> None:
        self._db.close()
        self._loop.close()

    @property
    def ledger(self) -> accounts.Ledger:
        return self.records.ledger(PAGE)

    @property
    def strangers(self) -> int:
        return sum((self.ledger.strangers or {}).values())

    @property
    def ours(self) -> int:
        return sum(sum(self.records.pages(pool).values()) for pool in self.records.pools())

    def check(self) -> list[seams.Event]:
        """The cycle; and pools that lack pages try to have them, as `pools` has them do."""
        events, _ = self._loop.run(self.source.check())
        for pool, pages in self.ordered.items():
            if sum(self.records.pages(pool).values()) != pages:
                self.grow(pool, pages)
        return events + self.counters.take_events()

    def grow(self, pool: str, pages: int) -> None:
        """Carry out an order, larger or smaller."""
        self.ordered[pool] = pages
        order = node.order(pages * PAGE, name=pool)
        self._loop.run(self.source.apply(order, held_bytes=0, on_progress=lambda _reserved: None))

    def release(self, pool: str) -> None:
        """Give the pool back."""
        self.ordered.pop(pool, None)
        self._loop.run(self.source.release(pool))
