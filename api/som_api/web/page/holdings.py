"""Leases for the page: asked of the agents, and shown to who may list the pods they belong to."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Final

from som_api import leases
from som_api.web import access, context, views
from som_api.web.page import texts

MOST: Final = 5000
"""Leases in one view; more are a matter for a filter."""
_MOST_NAMESPACES: Final = 64
"""Of which one view asks whether they may be seen."""
_NAMED: Final = 3

ORDERS: Final = (
    ("size", "largest first"),
    ("oldest", "oldest first"),
    ("newest", "newest first"),
    ("node", "by node"),
)
_GIB: Final = 2**30
_SIZES: Final = (
    ("up to 1 Gi", _GIB),
    ("up to 8 Gi", 8 * _GIB),
    ("up to 64 Gi", 64 * _GIB),
    ("larger", None),
)
_DAY_S: Final = 86400
_AGES: Final = (
    ("under 1 h", 3600),
    ("under 1 d", _DAY_S),
    ("under 7 d", 7 * _DAY_S),
    ("under 30 d", 30 * _DAY_S),
    ("older", None),
)
_NOT_STARTED: Final = "not started"


@dataclasses.dataclass(frozen=True)
class Told:
    """What agents told, and what is missing in it."""

    leases: Sequence[views.LeaseView] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """Leases of one size and age; `heat` 0 to 4 is their part of all."""

    count: int
    heat: int


@dataclasses.dataclass(frozen=True)
class Line:
    """Leases of one size, by age."""

    size: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Leases by size and age."""

    ages: tuple[str, ...]
    lines: tuple[Line, ...]


async def of_node(at_hand: context.Context, caller: access.Caller, node: str) -> Told:
    """The leases of a node, the largest first, of the namespaces whose pods he may list."""
    gathered = await at_hand.gatherer.page([node], wanted=lambda _: True, after=None, limit=MOST)
    notes = _silent(gathered.incomplete)
    found = gathered.leases
    if not await at_hand.access.allows(caller, context.leases("")):
        namespaces = sorted({lease.namespace for lease in found})[:_MOST_NAMESPACES]
        seen = [
            name for name in namespaces if await at_hand.access.allows(caller, context.leases(name))
        ]
        found = [lease for lease in found if lease.namespace in seen]
        notes.append("You see the leases of namespaces whose pods you may list; others may exist.")
    if not found and not notes:
        notes.append("No container of this node has som memory.")
    return Told(_sorted(found, "size"), tuple(notes))


async def of_fleet(
    at_hand: context.Context, caller: access.Caller, given: Mapping[str, str]
) -> Told:
    """The leases that a filter leaves: `namespace`, part of a `pod`'s name, `pool`, `order`."""
    namespace = given["namespace"]
    if not await at_hand.access.allows(caller, context.leases(namespace)):
        if namespace:
            return Told(notes=(f"You may not {context.leases(namespace)}.",))
        return Told(notes=("You may not list the pods of all namespaces: name one of yours.",))

    def is_wanted(lease: leases.Lease) -> bool:
        return (
            namespace in ("", lease.namespace)
            and given["pod"].lower() in lease.pod
            and given["pool"] in ("", lease.pool)
        )

    nodes = at_hand.fleet.nodes_with_leases(namespace)
    gathered = await at_hand.gatherer.page(nodes, wanted=is_wanted, after=None, limit=MOST)
    notes = _silent(gathered.incomplete)
    if gathered.more:
        notes.append(
            f"There are more leases than fit here: these are those of the nodes up to "
            f"{gathered.more.node}. Filter by namespace, or use the API."
        )
    return Told(_sorted(gathered.leases, given["order"]), tuple(notes))


def _silent(incomplete: Sequence[views.Incomplete]) -> list[str]:
    """Which agents did not answer."""
    if not incomplete:
        return []
    named = "; ".join(f"{each.node}: {each.reason}" for each in incomplete[:_NAMED])
    rest = len(incomplete) - _NAMED
    more = f"; and {texts.count(rest)} more" if rest > 0 else ""
    which = "This agent" if len(incomplete) == 1 else f"{texts.count(len(incomplete))} agents"
    return [f"{which} did not answer, so leases are missing here. {named}{more}"]


def _sorted(found: Sequence[views.LeaseView], order: str) -> Sequence[views.LeaseView]:
    if order == "size":
        return sorted(found, key=lambda lease: -lease.size_bytes)
    if order == "node":
        return found
    # Those that have not started are neither old nor new: they come last.
    started = [lease for lease in found if texts.read_time(lease.since)]
    others = [lease for lease in found if not texts.read_time(lease.since)]
    started.sort(key=lambda lease: _started(lease), reverse=order == "newest")
    return [*started, *others]


def _started(lease: views.LeaseView) -> datetime.datetime:
    moment = texts.read_time(lease.since)
    assert moment is not None
    return moment


def matrix(found: Sequence[views.LeaseView], now: datetime.datetime) -> Matrix | None:
    """How many leases there are by size and age; None where there are none."""
    if not found:
        return None
    ages = (*(name for name, _ in _AGES), _NOT_STARTED)
    counts: dict[tuple[str, str], int] = {}
    for lease in found:
        key = _size(lease.size_bytes), _age(lease.since, now)
        counts[key] = counts.get(key, 0) + 1
    most = max(counts.values())

    def cell(size: str, age: str) -> Cell:
        count = counts.get((size, age), 0)
        return Cell(count, -(-4 * count // most))

    return Matrix(
        ages=ages,
        lines=tuple(Line(size, tuple(cell(size, age) for age in ages)) for size, _ in _SIZES),
    )


def _size(size_bytes: int) -> str:
    return next(name for name, most in _SIZES if most is None or size_bytes <= most)


def _age(since: str | None, now: datetime.datetime) -> str:
    if (moment := texts.read_time(since)) is None:
        return _NOT_STARTED
    seconds = (now - moment).total_seconds()
    return next(name for name, most in _AGES if most is None or seconds < most)
