"""Pools through random orders, failures and restarts of their agent."""

import asyncio
import contextlib
import pathlib
import random

import hypothesis
import pytest
from hypothesis import strategies

from fakes.node import carved, order
from som_api import SomError, v1alpha1
from som_device_plugin import seams
from som_device_plugin.kubelet import setup
from unit.pool_nodes import GIB, FakeSource, Node

UNITS: dict[str, v1alpha1.Unit] = {"a": "2Mi", "b": "2Mi", "c": "1Gi"}
STEPS = [
    *("order", "order", "start holds", "start ends", "kernel refuses", "kernel grants"),
    *("policy is static", "policy is none", "pages are lost", "refill", "agent restarts"),
]


class SlowSource(FakeSource):
    """Takes turns at each step, and may refuse it."""

    refuses = False

    async def apply(self, pool: v1alpha1.NodePool, **_: object) -> seams.PoolReserved:
        await self._turn()
        self.has[pool.name] = pool.capacity // 2
        await self._turn()
        return await super().apply(pool)

    async def release(self, pool: str) -> None:
        await self._turn()
        await super().release(pool)

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.refuses:
            raise SomError("no")


async def live(path: pathlib.Path, steps: list[str], choose: random.Random) -> None:
    node, source, other = Node(path), SlowSource(), SlowSource()
    node.source, node.carved = source, other
    ordered: list[v1alpha1.NodePool] = []
    async with contextlib.AsyncExitStack() as agents:
        await agents.enter_async_context(node.agent())
        for step in steps:
            match step:
                case "order":
                    ordered = [any_order(n, choose) for n in UNITS if choose.random() < 0.5]
                    node.order(*ordered)
                case "start holds" | "start ends":
                    source.held = other.held = step == "start holds"
                case "kernel refuses" | "kernel grants":
                    source.refuses = other.refuses = step == "kernel refuses"
                case "policy is static" | "policy is none":
                    node.setup = setup.Setup(
                        blocked=setup.STATIC if step == "policy is static" else None
                    )
                case "pages are lost" if source.has:
                    source.has[choose.choice(sorted(source.has))] = GIB // 2
                case "refill":
                    await node.own.refill()
                case "agent restarts":
                    await node.until(lambda: node.is_heard)
                    await agents.aclose()
                    await agents.enter_async_context(node.agent())
            for _ in range(choose.randint(0, 30)):
                await asyncio.sleep(0)
            await node.clock.advance(choose.choice((0, 0, 10)))
            assert not source.has.keys() & other.has.keys(), "a pool has memory of two sources"
        source.held = source.refuses = other.held = other.refuses = False
        node.setup = setup.Setup()
        await node.until(lambda: node.is_heard)
        if any(pool.moved for pool in node.own.pools().values()):
            # It stays where it is until it is ordered away.
            node.order()
            await node.until(lambda: not source.has and not other.has)
            node.order(*ordered)
        wanted = {pool.name: pool.capacity for pool in ordered}
        await node.until(lambda: source.has | other.has == wanted)
        await node.until(
            lambda: {p.name for p in node.own.pools().values() if p.is_full} == set(wanted)
        )
        assert other.has.keys() == {p.name for p in ordered if p.source.kind == "Carved"}


def any_order(name: str, choose: random.Random) -> v1alpha1.NodePool:
    found = order(choose.randint(1, 4) * GIB, name=name, unit=UNITS[name])
    if choose.random() < 0.7:
        return found
    return carved(found.capacity, name=name).model_copy(update={"unit": found.unit})


@hypothesis.given(
    steps=strategies.lists(strategies.sampled_from(STEPS), max_size=25),
    seed=strategies.integers(0, 2**32),
)
def test_whatever_happens_the_pools_become_what_was_ordered_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    asyncio.run(live(tmp_path_factory.mktemp("pools"), steps, random.Random(seed)))
