"""A node's pools under orders, over a source that has what it is told to have."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import waiting
from fakes import node as fake_node
from fakes.clock import FakeClock
from fakes.reporter import FakeReporter
from som_api import SomError, v1alpha1
from som_device_plugin import changes, database, pools, seams, status
from som_device_plugin.kubelet import setup

GIB = 1 << 30


class FakeSource:
    """Has what is asked for, within limits; `calls` are what would have changed the node."""

    def __init__(self) -> None:
        self.has: dict[str, int] = {}
        self.free_bytes: dict[str, int] = {}
        self.least_bytes = 0
        self.most_bytes = 1 << 60
        self.held = False
        self.calls: list[str] = []

    async def reserved(self, pool: str) -> seams.PoolReserved:
        return self.now(pool)

    def now(self, pool: str) -> seams.PoolReserved:
        size_bytes = self.has.get(pool, 0)
        free_bytes = self.free_bytes.get(pool, size_bytes)
        return seams.PoolReserved(pool, size_bytes, free_bytes, {0: size_bytes})

    async def apply(self, pool: v1alpha1.NodePool, **_: object) -> seams.PoolReserved:
        self.calls.append("apply")
        self.has[pool.name] = max(min(pool.capacity, self.most_bytes), self.least_bytes)
        return self.now(pool.name)

    async def release(self, pool: str) -> None:
        self.calls.append("release")
        if self.held:
            raise SomError("held by containers")
        self.has.pop(pool, None)

    async def refill(self, pool: str) -> seams.PoolReserved:
        return self.now(pool)

    async def check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        self.calls.append("check")
        return [], [self.now(name) for name in self.has]


class Node:
    """Pools under orders; `setup` is what is found of kubelet's set-up, or why it is not.

    `other_sources` are those of pools, by name, that are not `source`'s; `carved` is that of all
    pools of that source.
    """

    def __init__(self, state_dir: pathlib.Path) -> None:
        self.clock = FakeClock()
        self.source = FakeSource()
        self.other_sources: dict[str, FakeSource] = {}
        self.carved = FakeSource()
        self.driver = fake_node.FakeDriver(fake_node.FakeKernel(0))
        self.reporter = FakeReporter()
        self.setup: setup.Setup | SomError = setup.Setup()
        self.connection = database.open_database(state_dir / "som.db")
        self._orders: asyncio.Queue[tuple[int, v1alpha1.SomNodeSpec]] = asyncio.Queue()
        self._generation = 0

    def order(self, *ordered: v1alpha1.NodePool) -> None:
        self._generation += 1
        self._orders.put_nowait((self._generation, v1alpha1.SomNodeSpec(pools=ordered)))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until `condition` holds."""
        await self.clock.until(condition, step_s=5.0)

    @property
    def is_heard(self) -> bool:
        """Whether the agent has taken the newest orders."""
        return not self._generation or self.own.generation == self._generation

    async def specs(self) -> AsyncIterator[tuple[int, v1alpha1.SomNodeSpec]]:
        while True:
            yield await self._orders.get()

    def _source(self, order: v1alpha1.NodePool) -> FakeSource:
        if order.source.kind == "Carved":
            return self.carved
        return self.other_sources.get(order.name, self.source)

    def _read_setup(self) -> setup.Setup:
        if isinstance(self.setup, SomError):
            raise self.setup
        return self.setup

    def pools(self) -> pools.Pools:
        """A new agent's, with what the last one stored."""
        return pools.Pools(
            backend_of=lambda order: seams.Backend(self._source(order), self.driver),
            connection=self.connection,
            promised_bytes=lambda unit: 0,
            read_setup=self._read_setup,
            reporter=self.reporter,
            changed=changes.Changes(),
            time=self.clock,
        )

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[Callable[[str], tuple[str, str, str]]]:
        """An agent's pools; gives the conditions as reported: "Ready" is the pool's own."""
        self.own = own = self.pools()

        def condition(kind: str) -> tuple[str, str, str]:
            report = reported(own)
            found = report.pools[0].conditions if kind == "Ready" else report.conditions
            return next((c.status, c.reason, c.message) for c in found if c.type == kind)

        await own.look()
        running = asyncio.create_task(own.run(self))
        try:
            await waiting.until(self._orders.empty)
            yield condition
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert not self.reporter.events


def reported(own: pools.Pools, **fields: Any) -> v1alpha1.SomNodeStatus:
    facts: dict[str, Any] = {"generation": own.generation, "boot_id": "b", "active": own.pools()}
    facts |= {"leases": (), "findings": (), "pod_names": {}, "huge_pages": {}}
    facts |= {"memory_bytes": 0, "module": None}
    return status.node_status(**({"found_setup": own.setup} | facts | fields))
