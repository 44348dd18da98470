"""GET /api/v1/{pools,nodes,leases,events}: pages of JSON, made in turns, from what is cached."""

import bisect
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, Literal

import fastapi
import pydantic

from som_api import kube, leases
from som_api.web import access, context, fleet, gathering, paging, refusals, rows, views

_NAME: Final = 253


class _List(views.View):
    continue_: Annotated[
        str,
        pydantic.Field(alias="continue", description="Send it back to go on; empty: that was all"),
    ]


class _Versioned(_List):
    version: Annotated[str, pydantic.Field(description="Where to begin a watch: its Last-Event-ID")]


class PoolList(_Versioned):
    """A page of pools, sorted by name."""

    items: tuple[views.PoolView, ...]


class NodeList(_Versioned):
    """A page of nodes, sorted by name."""

    items: tuple[views.NodeView, ...]


class EventList(_Versioned):
    """A page of Events, the newest first."""

    items: tuple[views.EventView, ...]


class LeaseList(_List):
    """A page of leases, sorted by node, and the nodes of which none could be had."""

    items: tuple[views.LeaseView, ...]
    incomplete: Annotated[
        tuple[views.Incomplete, ...],
        pydantic.Field(description="Nodes whose agents did not answer, with the reason"),
    ]


def _name(description: str) -> Any:
    return pydantic.Field(description=description, max_length=_NAME)


class PoolQuery(paging.Query):
    """Filters of pools."""

    ready: Annotated[bool | None, pydantic.Field(description="Only such as are, or are not")] = None


class NodeQuery(PoolQuery):
    """Filters of nodes."""

    pool: Annotated[str, _name("Only nodes of this pool")] = ""


class LeaseQuery(paging.Query):
    """Filters of leases."""

    namespace: Annotated[
        str, _name("Only leases of its pods; without it, all, which needs the right to all pods")
    ] = ""
    node: Annotated[str, _name("Only leases on this node")] = ""
    pool: Annotated[str, _name("Only leases of this pool")] = ""
    pod: Annotated[str, _name("Only leases of pods of this name")] = ""


class EventQuery(paging.Query):
    """Filters of Events."""

    kind: Annotated[
        Literal["", "Node", "SomNode", "SomPool"], pydantic.Field(description="About such objects")
    ] = ""
    name: Annotated[str, _name("About objects of this name")] = ""
    type: Annotated[
        Literal["", "Normal", "Warning"], pydantic.Field(description="Only of this type")
    ] = ""


router: Final = fastapi.APIRouter(prefix="/api/v1")
"""The lists, and single pools and nodes."""

_Name = Annotated[str, fastapi.Path(max_length=_NAME)]


@router.get("/pools", response_model=PoolList, tags=["pools"])
async def pools(
    query: Annotated[PoolQuery, fastapi.Query()], at_hand: context.AtHand, who: context.Caller
) -> fastapi.Response:
    """All SomPools. Needs the right to list sompools.som.io."""
    await context.demand(at_hand, who, context.POOLS)
    return await _page(
        at_hand,
        query,
        sorted(at_hand.fleet.pools),
        at_hand.rows.pool,
        lambda row: _fits(row, query),
    )


@router.get("/pools/{name}", response_model=views.PoolView, tags=["pools"])
async def pool(name: _Name, at_hand: context.AtHand, who: context.Caller) -> fastapi.Response:
    """One SomPool. Needs the right to get it."""
    await context.demand(at_hand, who, access.Right("get", kube.SOMPOOLS, name=name))
    return _one(at_hand.rows.pool(name), "SomPool", name)


@router.get("/nodes", response_model=NodeList, tags=["nodes"])
async def nodes(
    query: Annotated[NodeQuery, fastapi.Query()], at_hand: context.AtHand, who: context.Caller
) -> fastapi.Response:
    """All nodes with a SomNode. Needs the right to list somnodes.som.io."""
    await context.demand(at_hand, who, context.NODES)
    return await _page(
        at_hand,
        query,
        at_hand.fleet.node_names(),
        at_hand.rows.node,
        lambda row: _fits(row, query) and (not query.pool or query.pool in row.pools),
    )


@router.get("/nodes/{name}", response_model=views.NodeView, tags=["nodes"])
async def node(name: _Name, at_hand: context.AtHand, who: context.Caller) -> fastapi.Response:
    """One node. Needs the right to get its SomNode."""
    await context.demand(at_hand, who, access.Right("get", kube.SOMNODES, name=name))
    return _one(at_hand.rows.node(name), "SomNode", name)


@router.get("/leases", response_model=LeaseList, tags=["leases"])
async def lease_list(
    query: Annotated[LeaseQuery, fastapi.Query()], at_hand: context.AtHand, who: context.Caller
) -> fastapi.Response:
    """Who holds which memory now, asked of the agents.

    Needs the right to list the pods of the namespace, or of all namespaces.
    """
    await context.demand(
        at_hand,
        who,
        context.leases(query.namespace),
        cure="" if query.namespace else "ask for one namespace: ?namespace=NAME",
    )
    return await _leases(at_hand, query)


@router.get("/events", response_model=EventList, tags=["events"])
async def events(
    query: Annotated[EventQuery, fastapi.Query()], at_hand: context.AtHand, who: context.Caller
) -> fastapi.Response:
    """The latest Events of som. Needs the right to list the Events of namespace default."""
    await context.demand(at_hand, who, context.EVENTS)
    return _events(at_hand, query)


def _fits(row: rows.Row, query: PoolQuery) -> bool:
    return query.ready is None or row.ready is query.ready


def _one(row: rows.Row | None, kind: str, name: str) -> fastapi.Response:
    if row is None:
        raise refusals.Refusal(404, f"there is no {kind} {name!r}; see the list for the names")
    return _answer(row.json)


async def _page(
    at_hand: context.Context,
    query: PoolQuery,
    names: Sequence[str],
    row_of: Callable[[str], rows.Row | None],
    is_wanted: Callable[[rows.Row], bool],
) -> fastapi.Response:
    """A page of `names`, which are sorted."""
    version = at_hand.fleet.changes.version
    after = paging.after(query.continue_, (str,))
    first = bisect.bisect_right(names, str(after[0])) if after else 0
    turns, found, last, more = context.Turns(), list[bytes](), "", None
    for name in names[first:]:
        await turns.rest()
        row = row_of(name)
        if row is None or not is_wanted(row):
            continue
        if len(found) == query.limit:
            more = (last,)
            break
        found.append(row.json)
        last = name
    return _list(found, more, version=version)


async def _leases(at_hand: context.Context, query: LeaseQuery) -> fastapi.Response:
    after = paging.after(query.continue_, (str, str, int))
    nodes = at_hand.fleet.nodes_with_leases(query.namespace)

    def is_wanted(lease: leases.Lease) -> bool:
        return (
            query.namespace in ("", lease.namespace)
            and query.pool in ("", lease.pool)
            and query.pod in ("", lease.pod)
        )

    page = await at_hand.gatherer.page(
        [node for node in nodes if query.node in ("", node)],
        wanted=is_wanted,
        after=gathering.Place(*after) if after else None,  # type: ignore[arg-type]
        limit=query.limit,
    )
    return _list(
        _dumped(page.leases), page.more, incomplete=[each.model_dump() for each in page.incomplete]
    )


def _events(at_hand: context.Context, query: EventQuery) -> fastapi.Response:
    after = paging.after(query.continue_, (str, str))
    found = [
        event
        for event in at_hand.fleet.events()
        if query.kind in ("", event.kind)
        and query.name in ("", event.name)
        and query.type in ("", event.type)
        and (after is None or _place(event) < after)
    ]
    page = found[: query.limit]
    return _list(
        _dumped(map(views.event, page)),
        _place(page[-1]) if len(page) < len(found) else None,
        version=at_hand.fleet.changes.version,
    )


def _place(event: fleet.Event) -> paging.Key:
    return event.last, event.id


def _dumped(found: Iterable[pydantic.BaseModel]) -> list[bytes]:
    return [each.model_dump_json().encode() for each in found]


def _list(items: Sequence[bytes], more: paging.Key | None, **others: object) -> fastapi.Response:
    others["continue"] = paging.token(more)
    rest = json.dumps(others).encode().removeprefix(b"{")
    return _answer(b'{"items":[' + b",".join(items) + b"]," + rest)


def _answer(body: bytes) -> fastapi.Response:
    return fastapi.Response(body, media_type="application/json")
