"""GET /api/v1/watch: what changes, as server-sent events (WHATWG HTML, section 9.2).

Theory of operation. Nothing is kept for a client but its place in `fleet.Changes`. It gets each
object that changed since then as it is now, and once, however often it changed; what the client
does not read stays here, in that one shared order, until it is too far behind: then it is told to
list again (`resync`). So a slow client costs no memory, and is cut off by `serving` when it does
not read for long. A stream begins with `resync` unless it goes on where another one ended, so a
client has one rule: list at every `resync`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import Annotated, Final

import fastapi
import pydantic
from starlette import responses

from som_api import kube
from som_api.web import access, context, fleet, refusals, views

HEARTBEAT_S: Final = 15.0
"""Also how often rights are looked at again."""
PAUSE_S: Final = 0.2
"""Between batches, so that what changes often is sent once."""
PART: Final = 64
"""Events written at once; then the client has to read."""

_RESOURCES: Final = {
    "pool": access.Right("watch", kube.SOMPOOLS),
    "node": access.Right("watch", kube.SOMNODES),
    "event": access.Right("watch", kube.EVENTS, namespace=context.EVENTS_NAMESPACE),
}


class Query(pydantic.BaseModel):
    """What a watch is asked with."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[
        tuple[fleet.Kind, ...],
        pydantic.Field(description="What to watch; repeat it", min_length=1, max_length=3),
    ] = ("pool", "node")
    name: Annotated[
        str, pydantic.Field(description="Only the pool or node of this name", max_length=253)
    ] = ""


class Watches:
    """What changes, for whoever may watch it."""

    def __init__(self, at_hand: context.Context) -> None:
        self._at_hand = at_hand

    async def response(
        self, who: access.Caller, *, kinds: Collection[fleet.Kind], name: str = "", seen: str = ""
    ) -> responses.StreamingResponse:
        """The stream of changes of `kinds`, after the event id `seen`.

        Raises:
            Refusal: 403: a right is missing; 429: too many streams; 503: not ready.
        """

        async def demand() -> None:
            for kind in kinds:
                await self._at_hand.access.demand(who, _RESOURCES[kind])

        await demand()
        self._at_hand.demand_synced()
        events = self._events(kinds, name, seen, demand)
        stream = self._at_hand.open_streams.counted(who.username, events)
        return responses.StreamingResponse(
            stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def _events(
        self,
        kinds: Collection[fleet.Kind],
        name: str,
        seen: str,
        demand: Callable[[], Awaitable[None]],
    ) -> AsyncIterator[bytes]:
        changes = self._at_hand.fleet.changes
        place = changes.place_of(seen)
        while True:
            missed = None if place is None else changes.since(place)
            place, version = changes.place, changes.version
            if missed is None:
                yield _event("resync", version=version)
            else:
                wanted = (each for each in missed if each.kind in kinds)
                due = dict.fromkeys(each for each in wanted if name in ("", each.name))
                async for part in self._parts(list(due), version):
                    yield part
            await asyncio.sleep(PAUSE_S)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await changes.wait(place)
            except TimeoutError:
                yield f": still here\nid: {changes.version}\n\n".encode()
            try:
                await demand()
            except refusals.Refusal as refusal:
                yield _event("end", refusals.body(refusal.code, str(refusal)))
                return

    async def _parts(self, due: list[fleet.Change], version: str) -> AsyncIterator[bytes]:
        """The events of `due`; the last one has the id, so that half of them count as none."""
        turns = context.Turns()
        events = {event.id: event for event in self._at_hand.fleet.events()} if due else {}
        part: list[bytes] = []
        for number, change in enumerate(due, start=1):
            await turns.rest()
            last = number == len(due)
            data = b'{"name":%b,"object":%b}' % (
                json.dumps(change.name).encode(),
                self._object(change, events),
            )
            part.append(_event(change.kind, data, version=version if last else ""))
            if last or len(part) == PART:
                yield b"".join(part)
                part = []

    def _object(self, change: fleet.Change, events: dict[str, fleet.Event]) -> bytes:
        """It as it is now; null where it is gone."""
        if change.kind == "event":
            event = events.get(change.name)
            return views.event(event).model_dump_json().encode() if event else b"null"
        rows = self._at_hand.rows
        row = rows.pool(change.name) if change.kind == "pool" else rows.node(change.name)
        return row.json if row else b"null"


router: Final = fastapi.APIRouter(prefix="/api/v1")
"""The watch, for callers with a token."""


@router.get(
    "/watch",
    tags=["watch"],
    response_class=responses.StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `pool`, `node` and `event` with what has "
            "changed, its `object` null where it is gone; `resync`: list again; `end`: the "
            "right to watch is gone, with a Status",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        429: {"model": refusals.Status, "description": "Too many watches are open"},
    },
)
async def watch(
    query: Annotated[Query, fastapi.Query()],
    at_hand: context.AtHand,
    who: context.Caller,
    last_event_id: Annotated[
        str, fastapi.Header(description="Go on after this event", max_length=64)
    ] = "",
) -> responses.StreamingResponse:
    """What changes, as it changes. Needs the right to watch each kind."""
    kinds = frozenset(query.kind)
    watches = Watches(at_hand)
    return await watches.response(who, kinds=kinds, name=query.name, seen=last_event_id)


def _event(kind: str, data: bytes = b"{}", *, version: str = "") -> bytes:
    """One event on the wire; `data` is JSON, which has no line ends."""
    lines: Iterator[bytes] = filter(
        None, (f"id: {version}".encode() if version else b"", f"event: {kind}".encode())
    )
    return b"\n".join((*lines, b"data: " + data)) + b"\n\n"
