"""Server-sent events: what a client is told, and what a slow one costs."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette import types

from fakes import asgi
from fakes.fleet import GIB, FakeFleet
from fakes.reviewer import ADMIN, NOBODY, VIEWER, FakeReviewer
from som_api.web import fleet as fleets
from som_api.web import streams, watching
from waiting import until


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_S", 0.0)


class Reader:
    def __init__(self, stream: asgi.Stream) -> None:
        self._stream = stream
        self._left = b""

    async def next(self) -> tuple[str, Any, str]:
        """(event, data, id) of the next event, heartbeats aside."""
        while True:
            while b"\n\n" not in self._left:
                self._left += await self._stream.next()
            text, _, self._left = self._left.partition(b"\n\n")
            fields = dict(line.split(b": ", 1) for line in text.split(b"\n"))
            if b"event" in fields:
                seen = fields.get(b"id", b"").decode()
                return fields[b"event"].decode(), json.loads(fields[b"data"]), seen


@contextlib.asynccontextmanager
async def watch(
    web: types.ASGIApp, query: str = "", *, token: str = ADMIN, seen: str = ""
) -> AsyncIterator[Reader]:
    async with asgi.stream(web, f"/api/v1/watch{query}", token=token, Last_Event_ID=seen) as stream:
        yield Reader(stream)


async def test_a_change_is_told_as_the_object_is_now(fleet: FakeFleet, web: types.ASGIApp) -> None:
    async with watch(web) as reader:
        assert (await reader.next())[0] == "resync"
        fleet.allocate("node-0001", GIB)
        fleet.allocate("node-0001", 2 * GIB)
        kind, data, _ = await reader.next()
        assert (kind, data["name"]) == ("node", "node-0001")
        assert data["object"]["allocatedBytes"] == 2 * GIB


async def test_what_is_gone_is_null(fleet: FakeFleet, web: types.ASGIApp) -> None:
    async with watch(web) as reader:
        await reader.next()
        fleet.remove("node-0001")
        assert (await reader.next())[1] == {"name": "node-0001", "object": None}


async def test_a_watch_goes_on_where_it_ended(fleet: FakeFleet, web: types.ASGIApp) -> None:
    async with watch(web) as reader:
        _, _, seen = await reader.next()
    fleet.allocate("node-0001", GIB)
    async with watch(web, seen=seen) as reader:
        assert (await reader.next())[0] == "node"


@pytest.mark.parametrize(
    "seen", ["", "another-1", "{epoch}-999", "{epoch}--1", "{epoch}-x", "\x7f"]
)
async def test_a_place_that_is_none_begins_again(
    seen: str, fleet: FakeFleet, web: types.ASGIApp
) -> None:
    seen = seen.format(epoch=fleet.changes.epoch)
    async with watch(web, seen=seen) as reader:
        assert (await reader.next())[0] == "resync"


async def test_who_is_too_far_behind_lists_again(fleet: FakeFleet, web: types.ASGIApp) -> None:
    async with watch(web) as reader:
        await reader.next()
        for _ in range(fleets.REMEMBERED + 1):
            fleet.changes.note("node", "node-0001")
        assert (await reader.next())[0] == "resync"


async def test_only_what_is_asked_for(fleet: FakeFleet, web: types.ASGIApp) -> None:
    async with watch(web, "?kind=event&kind=node&name=node-0001") as reader:
        await reader.next()
        fleet.allocate("node-0000", GIB)
        fleet.allocate("node-0001", GIB)
        assert (await reader.next())[1]["name"] == "node-0001"


async def test_events_are_told(fleet: FakeFleet, web: types.ASGIApp) -> None:
    async with watch(web, "?kind=event") as reader:
        await reader.next()
        fleet.event("Node", "node-0001", "Reserved", "pool databases: 64Gi reserved")
        assert (await reader.next())[1]["object"]["reason"] == "Reserved"


@pytest.mark.parametrize(
    ("token", "query", "status"),
    [
        ("", "", 401),
        (NOBODY, "", 403),
        (VIEWER, "?kind=event", 403),
        (ADMIN, "?kind=lease", 400),
        (ADMIN, "?kind=", 400),
    ],
)
async def test_who_may_not_watch(token: str, query: str, status: int, web: types.ASGIApp) -> None:
    answer = await asgi.get(web, f"/api/v1/watch{query}", token=token)
    assert answer.status == status


async def test_a_right_that_is_gone_ends_the_watch(
    fleet: FakeFleet,
    reviewer: FakeReviewer,
    web: types.ASGIApp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("som_api.web.access.ALLOWED_S", 0.0)
    async with watch(web) as reader:
        await reader.next()
        reviewer.rights.clear()
        fleet.allocate("node-0001", GIB)
        assert (await reader.next())[0] == "end"


async def test_no_more_streams_than_can_be(web: types.ASGIApp) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(streams.MOST_OF_ONE - 1):
            reader = await stack.enter_async_context(watch(web))
            await reader.next()
        page = await stack.enter_async_context(asgi.stream(web, "/live", token=ADMIN))
        await page.next()
        for path in ("/api/v1/watch", "/live"):
            answer = await asgi.get(web, path, token=ADMIN)
            assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        other = await stack.enter_async_context(watch(web, token=VIEWER))
        await other.next()
    async with watch(web) as reader:
        await reader.next()


async def test_a_client_that_does_not_read_costs_no_memory(
    fleet: FakeFleet, web: types.ASGIApp
) -> None:
    async with asgi.stream(web, "/api/v1/watch", token=ADMIN) as stream:
        await stream.next()
        stream.reads.clear()
        for number in range(100):
            fleet.allocate("node-0001", number * GIB)
        stream.reads.set()
        await until(lambda: not stream.parts.empty())
        assert stream.parts.qsize() <= 2
