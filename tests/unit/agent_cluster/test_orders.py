import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from som_api import kube, v1alpha1
from som_device_plugin.cluster import orders
from waiting import DEADLINE_S, until

NODE = "node-1"
Order = tuple[int, v1alpha1.SomNodeSpec]


def somnode(*capacities: str, name: str = NODE, **status: object) -> kube.Json:
    pools = [
        {
            "name": f"pool-{number}",
            "generation": 1,
            "unit": "2Mi",
            "capacity": capacity,
            "source": {"hugeTLB": {"pageSize": "2Mi"}},
        }
        for number, capacity in enumerate(capacities)
    ]
    return {"metadata": {"name": name}, "spec": {"pools": pools}, "status": status}


class Follower:
    """Takes the orders in as the agent's pools do."""

    def __init__(self, source: orders.NodeOrders) -> None:
        self.source = source
        self._orders = source.specs()
        self._waiting: asyncio.Future[Order] | None = None

    async def next(self) -> list[int]:
        """The capacities of the next order."""
        waiting = self._waiting or asyncio.ensure_future(anext(self._orders))
        self._waiting = None
        async with asyncio.timeout(DEADLINE_S):
            _, spec = await waiting
        return [pool.capacity for pool in spec.pools]

    def seen(self) -> list[int] | None:
        """The capacities that the watch has brought last; None where they cannot be read."""
        observed = self.source.observed
        return (
            [pool.capacity for pool in observed.spec.pools] if observed and observed.spec else None
        )

    def stop(self) -> None:
        """Wait for no more orders."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def hears_nothing_new(self) -> bool:
        """Whether no order comes for a while; the next one is not lost by it."""
        self._waiting = asyncio.ensure_future(anext(self._orders))
        await asyncio.sleep(0.1)
        return not self._waiting.done()


@contextlib.asynccontextmanager
async def following(client: kube.Client, clock: FakeClock) -> AsyncIterator[Follower]:
    source = orders.NodeOrders(client, node_name=NODE, time=clock)
    task = asyncio.create_task(source.watch.run())
    try:
        yield Follower(source)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_orders_come_now_and_at_every_change(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    async with following(client, clock) as follower:
        assert await follower.next() == [64 * 2**20]
        server.put("som.io/v1alpha1", "somnodes", somnode("64Mi", "1Gi"))
        assert await follower.next() == [64 * 2**20, 2**30]


async def test_other_nodes_and_status_are_no_orders(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    async with following(client, clock) as follower:
        await follower.next()
        server.put("som.io/v1alpha1", "somnodes", somnode("1Gi", name="node-2"))
        server.put("som.io/v1alpha1", "somnodes", somnode("64Mi", bootID="abc"))
        server.put("som.io/v1alpha1", "somnodes", somnode("128Mi", bootID="abc"))
        assert await follower.next() == [128 * 2**20]


async def test_of_many_changes_only_the_newest_is_delivered(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("2Mi"))
    async with following(client, clock) as follower:
        await follower.next()
        for units in range(2, 20):
            server.put("som.io/v1alpha1", "somnodes", somnode(f"{2 * units}Mi"))
        await until(lambda: follower.seen() == [38 * 2**20])
        assert await follower.next() == [38 * 2**20]


async def test_a_somnode_that_has_gone_orders_nothing(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    async with following(client, clock) as follower:
        await follower.next()
        server.remove("som.io/v1alpha1", "somnodes", NODE)
        await until(lambda: follower.source.observed is None)
        assert await follower.hears_nothing_new()
        follower.stop()


async def test_a_somnode_made_anew_orders_again(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    async with following(client, clock) as follower:
        await follower.next()
        server.remove("som.io/v1alpha1", "somnodes", NODE)
        server.put("som.io/v1alpha1", "somnodes", somnode())
        assert await follower.next() == []


async def test_orders_that_cannot_be_read_change_nothing(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    async with following(client, clock) as follower:
        await follower.next()
        server.put("som.io/v1alpha1", "somnodes", somnode("lots"))
        await until(lambda: follower.seen() is None)
        assert await follower.hears_nothing_new()
        assert follower.source.observed is not None
        assert "spec.pools[0].capacity" in f"spec.{follower.source.observed.problem}"
        server.put("som.io/v1alpha1", "somnodes", somnode("128Mi"))
        assert await follower.next() == [128 * 2**20]


async def test_a_status_of_another_version_does_not_hide_the_orders(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi", fromTheFuture=True))
    async with following(client, clock) as follower:
        assert await follower.next() == [64 * 2**20]


async def test_orders_of_the_next_version_are_carried_out_as_far_as_they_are_known(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    async with following(client, clock) as follower:
        await follower.next()
        next_version = somnode("128Mi")
        next_version["spec"]["pools"][0]["fromTheFuture"] = [{"node": 0}]
        next_version["spec"]["alsoFromTheFuture"] = True
        server.put("som.io/v1alpha1", "somnodes", next_version)
        assert await follower.next() == [128 * 2**20]


def test_an_object_without_identity_is_refused() -> None:
    with pytest.raises(KeyError):
        orders.decode_somnode({"metadata": {"name": NODE}})
