"""The page's requests: each is checked, looked up and rendered on the server."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette import applications, exceptions, requests, responses, routing

from som_api import kube
from som_api.web import access, context, refusals, views
from som_api.web.page import (
    door,
    field,
    holdings,
    lists,
    live,
    rendering,
    screens,
    session,
    summary,
)

_LONGEST_NAME: Final = 253
_EVENTS_SHOWN: Final = 8
_TITLES: Final = {
    400: "This cannot be shown so",
    403: "Not for you",
    404: "There is nothing here",
    503: "In a moment",
}

Handler = Callable[[requests.Request], Awaitable[responses.Response]]


class Site:
    """The page's views on a fleet."""

    def __init__(self, at_hand: context.Context) -> None:
        self._at_hand = at_hand
        self._fleet, self._access = at_hand.fleet, at_hand.access
        self._summaries = summary.Summaries(at_hand.fleet)
        self._door = door.Door(at_hand.access)

    def application(self) -> applications.Starlette:
        """The page as an ASGI application of its own, whose refusals are pages as well."""
        seen = self._for_viewers
        return applications.Starlette(
            routes=[
                routing.Route("/", seen(self._overview)),
                routing.Route("/nodes", seen(self._nodes)),
                routing.Route("/nodes/at/{place:int}", seen(self._node_at)),
                routing.Route("/nodes/{name}", seen(self._node)),
                routing.Route("/pools/{name}", seen(self._pool)),
                routing.Route("/leases", seen(self._leases)),
                routing.Route("/live", self._live),
                routing.Route("/login", self._door.login, methods=["GET", "POST"]),
                routing.Route("/logout", self._door.logout, methods=["POST"]),
                routing.Route("/static/{name}", rendering.static),
            ],
            exception_handlers={
                refusals.Refusal: self._refused,
                exceptions.HTTPException: self._http,
            },
        )

    # What every view needs.

    def _for_viewers(
        self,
        view: Callable[[requests.Request, session.Viewer], Awaitable[responses.Response]],
    ) -> Handler:
        """`view` for who has a token; all others go to the login, and come back from there."""

        @functools.wraps(view)
        async def handler(request: requests.Request) -> responses.Response:
            try:
                who = await session.viewer(request, self._access)
            except refusals.Refusal as refusal:
                if refusal.code != 401 or not session.token_of(request)[1]:
                    raise
                return responses.RedirectResponse(self._login_path(request), 303)
            self._at_hand.demand_synced()
            # Before the view waits for anybody: what changes meanwhile may not be in it.
            request.state.seen = self._fleet.changes.version
            return await view(request, who)

        return handler

    def _login_path(self, request: requests.Request) -> str:
        back = lists.link(request.url.path, dict(request.query_params))
        why = "ended" if session.COOKIE in request.cookies else ""
        return lists.link("/login", {"why": why, "back": "" if back == "/" else back})

    async def _may(self, who: session.Viewer, right: access.Right, notes: list[str]) -> bool:
        """Whether he may; else `notes` has what is missing."""
        if await self._access.allows(who.caller, right):
            return True
        notes.append(f"You may not {right}, so that part is not shown. Ask an admin for the right.")
        return False

    # Views.

    async def _overview(self, request: requests.Request, who: session.Viewer) -> responses.Response:
        notes: list[str] = []
        rows, pools = None, None
        if await self._may(who, context.POOLS, notes):
            pools = [views.pool(pool) for _, pool in sorted(self._fleet.pools.items())]
        if await self._may(who, context.NODES, notes):
            rows = await self._summaries.rows()
        sums = screens.sums_of_pools(pools or ()) if rows is None else screens.sums_of_nodes(rows)
        return rendering.answer(
            request,
            "overview.html",
            who=who,
            notes=notes,
            sums=sums if rows is not None or pools is not None else None,
            nodes=None if rows is None else screens.counts(rows),
            field=field.draw(screens.cells(rows)) if rows else None,
            pools=None if pools is None else [screens.pool_row(pool) for pool in pools],
            troubles=screens.fleet_troubles(pools or (), rows, rendering.now()),
        )

    async def _nodes(self, request: requests.Request, who: session.Viewer) -> responses.Response:
        query = lists.query(
            "/nodes",
            request.query_params,
            texts=("name", "pool", "reason"),
            choices={"state": screens.STATES, "order": screens.ORDERS},
        )
        notes: list[str] = []
        page = None
        if await self._may(who, context.NODES, notes):
            rows = screens.select(await self._summaries.rows(), **query.given)
            page = query.page(rows, "nodes")
        return rendering.answer(
            request,
            "nodes.html",
            who=who,
            notes=notes,
            query=query,
            list=page,
            states=screens.STATES,
            orders=screens.ORDERS,
        )

    async def _node_at(self, request: requests.Request, who: session.Viewer) -> responses.Response:
        """The node of a cell of the field."""
        await self._access.demand(who.caller, context.NODES)
        names = self._fleet.node_names()
        place = request.path_params["place"]
        if place >= len(names):
            raise refusals.Refusal(404, f"the fleet has {len(names)} nodes; load it again")
        return responses.RedirectResponse(f"/nodes/{names[place]}", 303)

    async def _node(self, request: requests.Request, who: session.Viewer) -> responses.Response:
        name = _name(request)
        await self._access.demand(who.caller, access.Right("get", kube.SOMNODES, name=name))
        found = self._fleet.node(name)
        if found is None:
            raise refusals.Refusal(404, f"there is no node {name!r} with som memory")
        view, row = views.node(found), summary.row(found)
        told = holdings.Told()
        # A refresh shows what the cache has; agents are asked by who loads the page.
        if "som-refresh" not in request.headers:
            told = await holdings.of_node(self._at_hand, who.caller, name)
        query = lists.query(f"/nodes/{name}", request.query_params)
        return rendering.answer(
            request,
            "node.html",
            who=who,
            node=view,
            sums=screens.sums_of_nodes([row]),
            pools=screens.node_pools(view),
            conditions=screens.conditions(
                row.troubles, found.somnode.status.conditions, rendering.now()
            ),
            lease_notes=told.notes,
            lease_list=query.page(told.leases, "leases") if told.leases else None,
            events=await self._events(who, ("Node", "SomNode"), name),
        )

    async def _pool(self, request: requests.Request, who: session.Viewer) -> responses.Response:
        name = _name(request)
        await self._access.demand(who.caller, access.Right("get", kube.SOMPOOLS, name=name))
        found = self._fleet.pools.get(name)
        if found is None:
            raise refusals.Refusal(404, f"there is no SomPool {name!r}")
        view = views.pool(found)
        query = lists.query(f"/pools/{name}", request.query_params)
        notes: list[str] = []
        page = None
        if await self._may(who, context.NODES, notes):
            rows = screens.select(await self._summaries.rows(), pool=name)
            page = query.page(rows, "nodes")
        return rendering.answer(
            request,
            "pool.html",
            who=who,
            notes=notes,
            pool=view,
            sums=screens.sums_of_pools([view]),
            conditions=screens.conditions(
                summary.of_pool(view.conditions), view.conditions, rendering.now()
            ),
            list=page,
            events=await self._events(who, ("SomPool",), name),
        )

    async def _leases(self, request: requests.Request, who: session.Viewer) -> responses.Response:
        query = lists.query(
            "/leases",
            request.query_params,
            texts=("namespace", "pod", "pool"),
            choices={"order": holdings.ORDERS},
        )
        told = await holdings.of_fleet(self._at_hand, who.caller, query.given)
        return rendering.answer(
            request,
            "leases.html",
            who=who,
            query=query,
            orders=holdings.ORDERS,
            notes=told.notes,
            matrix=holdings.matrix(told.leases, rendering.now()),
            list=query.page(told.leases, "leases"),
        )

    async def _events(
        self, who: session.Viewer, kinds: tuple[str, ...], name: str
    ) -> list[views.EventView] | None:
        if not await self._access.allows(who.caller, context.EVENTS):
            return None
        found = [each for each in self._fleet.events() if each.name == name and each.kind in kinds]
        return [views.event(each) for each in found[:_EVENTS_SHOWN]]

    async def _live(self, request: requests.Request) -> responses.Response:
        who = await session.viewer(request, self._access)
        ticks = live.ticks(
            self._fleet.changes,
            lambda: session.viewer(request, self._access),
            seen=request.query_params.get("seen", ""),
        )
        return responses.StreamingResponse(
            self._at_hand.open_streams.counted(who.caller.username, ticks),
            media_type="text/event-stream",
            headers={**rendering.HEADERS, "X-Accel-Buffering": "no"},
        )

    # What is the same for all.

    async def _refused(self, request: requests.Request, error: Exception) -> responses.Response:
        assert isinstance(error, refusals.Refusal)
        return self._said(request, error.code, str(error), refusals.headers(error))

    async def _http(self, request: requests.Request, error: Exception) -> responses.Response:
        assert isinstance(error, exceptions.HTTPException)
        return self._said(request, error.status_code, str(error.detail), error.headers or {})

    def _said(
        self, request: requests.Request, code: int, message: str, headers: Mapping[str, str]
    ) -> responses.Response:
        title = _TITLES.get(code, "This did not work")
        answer = rendering.answer(
            request, "refused.html", title=title, message=message, status=code
        )
        answer.headers.update(headers)
        return answer


def _name(request: requests.Request) -> str:
    """The name in the path. Refusal 404: none that an object can have."""
    name: str = request.path_params["name"]
    if len(name) > _LONGEST_NAME:
        raise refusals.Refusal(404, f"no name has more than {_LONGEST_NAME} characters")
    return name
