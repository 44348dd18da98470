import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from som_api import kube
from som_device_plugin import seams
from som_device_plugin.cluster import pods
from waiting import until

NODE = "node-1"


def pod(name: str, *, node: str = NODE, phase: str = "Running", **units: str) -> kube.Json:
    limits = {f"som.io/{unit[1:]}": count for unit, count in units.items()}
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "app", "image": "a", "resources": {"limits": limits}}],
        },
        "status": {"phase": phase},
    }


@contextlib.asynccontextmanager
async def followed(client: kube.Client, clock: FakeClock) -> AsyncIterator[pods.NodePods]:
    source = pods.NodePods(client, node_name=NODE, time=clock)
    task = asyncio.create_task(source.watch.run())
    try:
        await until(lambda: source.synced)
        yield source
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_pods_of_this_node_are_known_with_their_requests(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    stored = server.put("v1", "pods", pod("db", _2Mi="64"))
    server.put("v1", "pods", pod("elsewhere", node="node-2", _2Mi="64"))
    async with followed(client, clock) as source:
        assert source.get(namespace="shop", name="db") == seams.Pod(
            namespace="shop",
            name="db",
            uid=seams.PodUid(stored["metadata"]["uid"]),
            terminal=False,
            containers=(seams.ContainerRequest("app", "2Mi", 64, is_movable=True),),
        )
        assert [known.name for known in source.pods()] == ["db"]


async def test_a_limit_of_zero_is_no_request(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "pods", pod("db", _2Mi="0", _1Gi="2"))
    async with followed(client, clock) as source:
        known = source.get(namespace="shop", name="db")
        assert known is not None
        assert known.containers == (seams.ContainerRequest("app", "1Gi", 2, is_movable=True),)


async def test_a_pod_made_anew_under_its_name_has_its_own_uid(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    first = server.put("v1", "pods", pod("db-0", _2Mi="64"))["metadata"]["uid"]
    async with followed(client, clock) as source:
        server.remove("v1", "pods", "db-0", namespace="shop")
        second = server.put("v1", "pods", pod("db-0", _2Mi="32"))["metadata"]["uid"]
        await until(lambda: [known.uid for known in source.pods()] == [second])
    assert first != second


async def test_a_pod_that_ended_is_terminal_until_it_is_deleted(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "pods", pod("job", _2Mi="1"))
    async with followed(client, clock) as source:
        server.put("v1", "pods", pod("job", phase="Succeeded", _2Mi="1"))
        await until(lambda: [known.terminal for known in source.pods()] == [True])
        server.remove("v1", "pods", "job", namespace="shop")
        await until(lambda: source.pods() == [])


@pytest.mark.parametrize("poison", ["100E", "9e9", "lots"])
async def test_a_pod_that_nobody_can_serve_hides_no_other_and_is_not_gone(
    poison: str, server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "pods", pod("before", _2Mi="1"))
    async with followed(client, clock) as source:
        uid = server.put("v1", "pods", pod("poison", _2Mi=poison))["metadata"]["uid"]
        server.put("v1", "pods", pod("after", _2Mi="1"))
        await until(lambda: source.get(namespace="shop", name="after") is not None)
        assert {known.name for known in source.pods()} == {"before", "poison", "after"}
        known = source.get(namespace="shop", name="poison")
        assert known is not None
        assert (known.uid, known.terminal) == (uid, False)
        server.put("v1", "pods", pod("poison", phase="Failed", _2Mi=poison))
        server.remove("v1", "pods", "before", namespace="shop")
        await until(lambda: {p.name: p.terminal for p in source.pods()}["poison"])
    async with followed(client, clock) as restarted:
        assert {known.name for known in restarted.pods()} == {"poison", "after"}


async def test_a_pod_that_became_unreadable_keeps_what_it_asked_for(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "pods", pod("db", _2Mi="64"))
    async with followed(client, clock) as source:
        before = source.get(namespace="shop", name="db")
        server.put("v1", "pods", pod("db", _2Mi="lots"))
        server.put("v1", "pods", pod("after", _2Mi="1"))
        await until(lambda: source.get(namespace="shop", name="after") is not None)
        assert source.get(namespace="shop", name="db") == before


async def test_no_pod_is_gone_because_the_api_server_is(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "pods", pod("stays", _2Mi="64"))
    server.put("v1", "pods", pod("goes", _2Mi="64"))
    async with followed(client, clock) as source:
        await server.stop()
        server.remove("v1", "pods", "goes", namespace="shop")
        pauses = len(clock.sleeps)
        await until(lambda: len(clock.sleeps) > pauses + 3)
        assert {known.name for known in source.pods()} == {"stays", "goes"}
        assert source.synced
        await server.start()
        await until(lambda: [known.name for known in source.pods()] == ["stays"])
