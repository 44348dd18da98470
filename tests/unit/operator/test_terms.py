"""What a leader may write, and what one that has lost the lead begins with when it leads again."""

import asyncio
import contextlib

from aiohttp import web

from som_api import kube
from unit.operator.cluster import SOM, SOMNODE_PATH, Cluster
from waiting import until


async def test_who_leads_again_begins_with_what_the_caches_say(cluster: Cluster) -> None:
    async with cluster.working() as controllers:
        leading = cluster.leading
        leading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leading
        assert cluster.metric("som_operator_nodes") is None
        assert cluster.metric("som_operator_queue_keys", queue="node") == 0
        cluster.node("m")
        cluster.server.requests.clear()
        await cluster.quiet()
        assert not cluster.writes()
        again = asyncio.create_task(controllers.run())
        try:
            await cluster.first_ordered(["m"])
            assert cluster.metric("som_operator_nodes") == 2
            orders = [r.path for r in cluster.writes() if r.path.startswith(SOMNODE_PATH)]
            assert f"{SOMNODE_PATH}/n" not in orders
        finally:
            again.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await again


async def test_every_write_of_the_controllers_says_what_it_replaces(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.pool(capacity="2Gi")
        await until(lambda: cluster.condition() == ("False", "Reserving"))
        cluster.report()
        await until(lambda: cluster.capacity() == "1024")
    for request in cluster.writes():
        said = str(request.body)
        names_what_it_replaces = "resourceVersion" in said or "/metadata/uid" in said
        assert request.verb == "create" or names_what_it_replaces, request


async def test_a_late_write_changes_nothing_that_another_leader_wrote(cluster: Cluster) -> None:
    """What was sent before is held back on its way, and arrives when all has changed."""
    held: list[str] = []
    arrives = asyncio.Event()

    async def slow_network(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH" and not arrives.is_set():
            held.append(request.path)
            await arrives.wait()
        return None

    async with cluster.working():
        cluster.server.failure = slow_network
        cluster.pool(capacity="2Gi")
        cluster.report()
        await until(lambda: f"{SOMNODE_PATH}/n" in held)
        await until(lambda: any(path.endswith("sompools/a/status") for path in held))
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["spec"]["pools"][0]["capacity"] = "3Gi"
        with cluster.edited(SOM, "sompools", "a") as pool:
            pool["status"]["capacity"] = "3Gi"
        cluster.leading.cancel()
        arrives.set()
        await asyncio.sleep(0.1)
    assert cluster.expect(SOM, "somnodes", "n")["spec"]["pools"][0]["capacity"] == "3Gi"
    assert cluster.expect(SOM, "sompools", "a")["status"]["capacity"] == "3Gi"


async def test_a_fenced_client_reads_and_does_not_write(cluster: Cluster) -> None:
    fence = kube.Fence(cluster.clock)
    async with cluster.server.client() as client:
        fenced = client.fenced(fence)
        cluster.node()
        await fenced.get(kube.NODES.path(name="n"))
        before = len(cluster.server.requests)
        for write in (
            fenced.merge_patch(kube.NODES.path(name="n"), {}),
            fenced.json_patch(kube.NODES.path(name="n"), []),
            fenced.apply(kube.NODES.path(name="n"), {}, field_manager="m"),
            fenced.create(kube.NODES.path(), {}),
            fenced.delete(kube.NODES.path(name="n")),
        ):
            try:
                await write
            except kube.NotLeader as refusal:
                assert refusal.is_race
            else:
                raise AssertionError("it was sent")
        assert len(cluster.server.requests) == before
        fence.open_until(cluster.clock.monotonic() + 1, end_s=cluster.clock.monotonic() + 2)
        await fenced.merge_patch(kube.NODES.path(name="n"), {"metadata": {"labels": {"a": "b"}}})


async def test_a_write_under_way_ends_when_another_one_may_lead(cluster: Cluster) -> None:
    async def never(request: web.Request) -> web.StreamResponse | None:
        await asyncio.sleep(3600)
        return None

    cluster.node()
    cluster.server.failure = never
    fence = kube.Fence(cluster.clock)
    async with cluster.server.client() as client:
        now_s = cluster.clock.monotonic()
        fence.open_until(now_s + 1, end_s=now_s + 0.2)
        try:
            await client.fenced(fence).merge_patch(kube.NODES.path(name="n"), {})
        except kube.KubeError as error:
            assert error.reason == "Timeout"
        else:
            raise AssertionError("it has no end")
        await asyncio.wait_for(fence.idle(), 60)
