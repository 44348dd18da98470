"""What every request has at hand."""

import asyncio
import dataclasses
import time
from typing import Annotated, Final

import fastapi
from fastapi import security
from starlette import types

from som_api import kube
from som_api.web import access, fleet, gathering, refusals, rows, streams

A_TURN_S: Final = 0.005

EVENTS_NAMESPACE: Final = "default"
"""Where Events about objects without a namespace are."""

POOLS: Final = access.Right("list", kube.SOMPOOLS)
NODES: Final = access.Right("list", kube.SOMNODES)
EVENTS: Final = access.Right("list", kube.EVENTS, namespace=EVENTS_NAMESPACE)


def leases(namespace: str) -> access.Right:
    """Who may list the pods of `namespace` sees its leases; "": of all namespaces."""
    return access.Right("list", kube.PODS, namespace=namespace)


@dataclasses.dataclass(frozen=True)
class Context:
    """The fleet, who may see it, and what was made of it already."""

    fleet: fleet.Fleet
    access: access.Access
    rows: rows.Rows
    gatherer: gathering.Gatherer
    open_streams: streams.Streams = dataclasses.field(default_factory=streams.Streams)

    def demand_synced(self) -> None:
        """Refusal 503 until everything has been listed: half a fleet looks like trouble."""
        if not self.fleet.synced:
            raise refusals.Refusal(
                503, "the caches are not complete yet; try again in a moment", retry_after_s=2
            )


async def demand(
    at_hand: Context, who: access.Caller, right: access.Right, *, cure: str = ""
) -> None:
    """Refusal 403 for who has not the right, 503 until everything has been listed."""
    await at_hand.access.demand(who, right, cure=cure)
    at_hand.demand_synced()


class Turns:
    """Long work in turns: `await turns.rest()` lets others have theirs, where it is time."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + A_TURN_S

    async def rest(self) -> None:
        if time.monotonic() > self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.monotonic() + A_TURN_S


_SCOPE: Final = "som.at_hand"

_bearer = security.HTTPBearer(auto_error=False, description="A token of the cluster")


def put(at_hand: Context, scope: types.Scope) -> None:
    """Have the routes that answer this request find `at_hand`."""
    scope[_SCOPE] = at_hand


def _of_request(request: fastapi.Request) -> Context:
    at_hand: Context = request.scope[_SCOPE]
    return at_hand


AtHand = Annotated[Context, fastapi.Depends(_of_request)]
"""A parameter of a route: what its application was made of."""


async def _caller(
    at_hand: AtHand,
    credentials: Annotated[security.HTTPAuthorizationCredentials | None, fastapi.Depends(_bearer)],
) -> access.Caller:
    return await at_hand.access.caller(credentials.credentials if credentials else "")


Caller = Annotated[access.Caller, fastapi.Depends(_caller)]
"""A parameter of a route: the caller whose bearer token the request has."""
