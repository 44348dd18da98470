import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from fakes import failures
from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from fakes.object_store import Place
from som_api import kube
from som_api.kube import events
from waiting import until

POOL = kube.ObjectRef(kube.SOMPOOLS, "databases", uid="1-2-3")


@pytest.fixture
def still() -> FakeClock:
    """Time that stands still until the test moves it."""
    return FakeClock()


@contextlib.asynccontextmanager
async def recording(client: kube.Client, clock: FakeClock) -> AsyncIterator[kube.Recorder]:
    recorder = kube.Recorder(client, component="som-agent", instance="node-1", time=clock)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def stored(client: kube.Client) -> list[kube.Json]:
    items: list[kube.Json] = (await client.get(kube.EVENTS.path(namespace="default")))["items"]
    return items


def writes(server: FakeApiServer) -> int:
    return sum(verb in ("create", "patch") for verb in server.verbs())


def written(server: FakeApiServer, count: int) -> Callable[[], bool]:
    return lambda: writes(server) >= count


async def test_an_event_names_the_object_as_describe_looks_for_it(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    async with recording(client, still) as recorder:
        recorder.emit(POOL, reason="Reserved", message="64Gi on 3 nodes")
        await until(lambda: writes(server) == 1)
    (event,) = await stored(client)
    assert event["involvedObject"] == {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomPool",
        "name": "databases",
        "namespace": "",
        "uid": "1-2-3",
    }
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "Reserved", 1)
    assert event["source"] == {"component": "som-agent", "host": "node-1"}
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-11-24T12:00:00Z"


async def test_an_event_on_a_node_is_a_warning_when_asked_for(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    async with recording(client, still) as recorder:
        recorder.emit(kube.node_ref("node-1"), reason="LeaseDamaged", message="no", warning=True)
        await until(lambda: writes(server) == 1)
    (event,) = await stored(client)
    assert event["type"] == "Warning"
    assert (event["involvedObject"]["kind"], event["involvedObject"]["uid"]) == ("Node", "node-1")


async def test_a_repeating_event_is_counted_and_written_once_a_minute(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    async with recording(client, still) as recorder:
        for second in range(600):
            recorder.emit(POOL, reason="Short", message="37.5Gi of 64Gi")
            await until(written(server, 1 + second // 60))
            await still.advance(1)
    (event,) = await stored(client)
    assert writes(server) == 10
    assert event["count"] == 541
    assert event["firstTimestamp"] == "2026-11-24T12:00:00Z"
    assert event["lastTimestamp"] == "2026-11-24T12:09:00Z"


async def test_many_messages_with_one_reason_become_one_event(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    async with recording(client, still) as recorder:
        for number in range(200):
            recorder.emit(POOL, reason="Held", message=f"pid {number} holds memory")
        await until(lambda: writes(server) == events.SIMILAR + 1)
        await asyncio.sleep(0.05)
    found = await stored(client)
    assert len(found) == events.SIMILAR + 1
    combined = [event for event in found if "combined" in event["message"]]
    assert [event["count"] for event in combined] == [190]


async def test_an_event_that_the_server_has_forgotten_is_made_anew(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    async with recording(client, still) as recorder:
        recorder.emit(POOL, reason="Short", message="no")
        await until(lambda: writes(server) == 1)
        (event,) = await stored(client)
        server.remove("v1", "events", event["metadata"]["name"], namespace="default")
        await still.advance(120)
        recorder.emit(POOL, reason="Short", message="no")
        await until(lambda: server.verbs().count("patch") == 1)
        await still.advance(60)
        await until(lambda: server.verbs().count("create") == 2)
    (event,) = await stored(client)
    assert event["count"] == 2


async def test_events_wait_for_a_server_that_is_away_without_a_flood(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    server.failure = failures.ALL["HTTP 500"]
    async with recording(client, still) as recorder:
        for number in range(5):
            recorder.emit(POOL, reason=f"Reason{number}", message="no")
        for _ in range(30):
            await still.advance(1)
            await asyncio.sleep(0.005)
        assert 2 <= writes(server) <= 10
        server.failure = None
        await still.advance(30)
        await until(lambda: len(server.store.list(Place("v1", "events"))) == 5)


async def test_an_event_that_is_refused_is_given_up(
    server: FakeApiServer,
    client: kube.Client,
    still: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.failure = failures.http_error(403, "Forbidden")
    async with recording(client, still) as recorder:
        recorder.emit(POOL, reason="First", message="no")
        await until(lambda: "First is lost" in caplog.text)
        server.failure = None
        recorder.emit(POOL, reason="Second", message="yes")
        await until(lambda: writes(server) == 2)
    assert [event["reason"] for event in await stored(client)] == ["Second"]


def test_events_of_a_fleet_take_bounded_memory_and_what_is_dropped_is_counted(
    still: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = kube.Recorder(
        kube.Client(None),
        component="som-operator",
        instance="operator",
        time=still,
    )
    known = []
    for round_ in range(2):
        for number in range(events.MOST_TOPICS):
            recorder.emit(kube.node_ref(f"n{number}"), reason=f"Reason{round_}", message="64Gi")
        known.append(len(recorder._topics))
    assert known == [events.MOST_TOPICS, events.MOST_TOPICS]
    assert recorder.dropped == 2 * events.MOST_TOPICS - events.OUTBOX
    assert len(caplog.records) == 1


async def test_an_event_whose_answer_was_lost_is_not_lost(
    server: FakeApiServer, client: kube.Client, still: FakeClock
) -> None:
    async def store_without_an_answer(request: web.Request) -> web.StreamResponse | None:
        if server.store.list(Place("v1", "events")):
            return None
        item = await request.json()
        server.put("v1", "events", item)
        failures._break(request)
        return web.Response()

    server.failure = store_without_an_answer
    async with recording(client, still) as recorder:
        recorder.emit(POOL, reason="Reserved", message="yes")
        await until(lambda: writes(server) == 1)
        await still.advance(10)
        await until(lambda: writes(server) == 2)
        await still.advance(60)
        recorder.emit(POOL, reason="Reserved", message="yes")
        await until(lambda: writes(server) == 3)
    (event,) = await stored(client)
    assert event["count"] == 2
