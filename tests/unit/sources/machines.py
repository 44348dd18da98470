"""A machine with huge pages, agents that keep pools on it, and strangers who write the counters."""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator

from fakes.huge_pages import PAGE, HugePages
from som_device_plugin import database, seams
from som_device_plugin.sources.hugetlb import accounts, counters, plan, records


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
        with self.kernel.installed():
            yield self


class Agent:
    """The real counters and records, and a hold as `sources.hugetlb` keeps it, a number here."""

    def __init__(self, machine: Machine, state_dir: pathlib.Path) -> None:
        self._machine = machine
        self._state_dir = state_dir
        state_dir.mkdir()
        self.ordered: dict[str, int] = {}
        self.hold = 0
        self._start()

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

    def restart(self) -> None:
        """What a new agent finds."""
        self._db.close()
        self._start()

    def close(self) -> None:
        self._db.close()

    @property
    def ledger(self) -> accounts.Ledger:
        return self.records.ledger(PAGE)

    @property
    def strangers(self) -> int:
        return sum((self.ledger.strangers or {}).values())

    def pages(self, pool: str) -> dict[int, int]:
        return self.records.pages(pool)

    @property
    def ours(self) -> int:
        return sum(sum(self.pages(pool).values()) for pool in self.records.pools())

    def check(self) -> list[seams.Event]:
        """The cycle; and pools that lack pages try to have them, as `pools` has them do."""
        with self.counters.locked():
            if self.records.pools():
                self.counters.settle(PAGE)
                self._fill()
        for pool, pages in self.ordered.items():
            self.grow(pool, pages)
        return self.counters.take_events()

    def grow(self, pool: str, pages: int, *, step: int = 16) -> None:
        """Carry out an order, larger or smaller."""
        self.ordered[pool] = pages
        nodes = dict.fromkeys(self._machine.kernel.total, 0)
        with self.counters.locked():
            self.counters.settle(PAGE)
            self.records.add(pool, PAGE, nodes)
        short: set[int] = set()
        while True:
            with self.counters.locked():
                self.counters.settle(PAGE)
                ours = nodes | self.pages(pool)
                add = plan.next_growth(target=pages, ours=ours, exhausted=short, most=step)
                take = plan.next_shrink(
                    target=pages, ours=ours, free=ours, hold=self.hold, most=step
                )
                if add is not None:
                    if self.counters.change(pool, PAGE, add.node, add.pages) < add.pages:
                        short.add(add.node)
                elif take is not None:
                    self._reserve(self.hold - take.pages)
                    self.counters.change(pool, PAGE, take.node, -take.pages)
                else:
                    break
                self._fill()

    def release(self, pool: str) -> None:
        """Give the pool back."""
        self.ordered.pop(pool, None)
        with self.counters.locked():
            if pool not in self.records.pools():
                return
            self.counters.settle(PAGE)
            self._reserve(self.hold - min(sum(self.pages(pool).values()), self.hold))
            for node, pages in self.pages(pool).items():
                self.counters.change(pool, PAGE, node, -pages)
            self.records.forget(pool)
            if self.records.pools():
                self._fill()

    def _fill(self) -> None:
        kernel = self._machine.kernel
        free = sum(kernel.total.values()) - kernel.used
        self._reserve(min(self.ours, self.hold + free))

    def _reserve(self, pages: int) -> None:
        self._machine.kernel.use(pages - self.hold)
        self.hold = pages
