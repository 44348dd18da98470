"""Leases, asked of the agents: in parallel, within limits; who does not answer is named.

Nodes are asked in the order of their names until a page is full or `PAGE_S` are over; then the
page ends there, and the next one goes on. So a fleet of any size is read in bounded steps.
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from som_api import leases
from som_api.run import clock
from som_api.web import fleet, views

AT_ONCE: Final = 64
"""Agents asked at the same time, for all requests together."""
ANSWER_S: Final = 3.0
PAGE_S: Final = 10.0
LONGEST_REASON: Final = 200


class Place(NamedTuple):
    """Where a page ends: after this lease."""

    node: str
    lease: str
    start: int


@dataclasses.dataclass(frozen=True)
class Gathered:
    """A page of leases; `more` is where the next one begins, None: there is no more."""

    leases: Sequence[views.LeaseView]
    incomplete: Sequence[views.Incomplete]
    more: Place | None


class Gatherer:
    """Asks the agents of a fleet."""

    def __init__(self, of: fleet.Fleet, *, time: clock.Clock) -> None:
        self._fleet = of
        self._time = time
        self._asking = asyncio.Semaphore(AT_ONCE)

    async def page(
        self,
        nodes: Sequence[str],
        *,
        wanted: Callable[[leases.Lease], bool],
        after: Place | None,
        limit: int,
    ) -> Gathered:
        """The `wanted` leases of `nodes`, which are sorted, after a place: at most `limit`."""
        ends_s = self._time.monotonic() + PAGE_S
        found: list[views.LeaseView] = []
        incomplete: list[views.Incomplete] = []
        left = [node for node in nodes if after is None or node >= after.node]
        while left:
            asked, left = left[:AT_ONCE], left[AT_ONCE:]
            for node, answer in zip(asked, await self._ask(asked), strict=True):
                if isinstance(answer, str):
                    incomplete.append(views.Incomplete(node=node, reason=answer))
                    continue
                for lease in sorted(answer, key=lambda lease: (lease.lease, lease.start)):
                    place = Place(node, lease.lease, lease.start)
                    if (after is not None and place <= after) or not wanted(lease):
                        continue
                    if len(found) == limit:
                        return Gathered(found, incomplete, Place(*_place(found[-1])))
                    found.append(views.lease(lease, node=node))
            if left and (len(found) == limit or self._time.monotonic() > ends_s):
                return Gathered(found, incomplete, Place(left[0], "", -1))
        return Gathered(found, incomplete, None)

    async def _ask(self, nodes: Sequence[str]) -> list[Sequence[leases.Lease] | str]:
        """By node its leases, or why they are not known."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask_one(node)) for node in nodes]
        return [task.result() for task in asked]

    async def _ask_one(self, node: str) -> Sequence[leases.Lease] | str:
        try:
            async with self._asking, self._time.timeout(ANSWER_S):
                answer = await self._fleet.leases_of(node)
        except TimeoutError:
            return f"the agent did not answer within {ANSWER_S:.0f} s"
        except fleet.AgentSilent as error:
            return str(error)[:LONGEST_REASON]
        return list(itertools.islice(answer, leases.MOST))


def _place(view: views.LeaseView) -> tuple[str, str, int]:
    return view.node, view.lease, view.start
