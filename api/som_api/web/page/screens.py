"""What each view of the page shows, as values that its template only has to place. Pure."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_api.web import views
from som_api.web.page import field, lists, shares, summary, texts

_NAMED: Final = 3
"""Objects that a trouble names; the rest is a link."""
_MOST_TROUBLES: Final = 12

_SAID_BY_NODES: Final = ("AgentNotReady", "PartlyReserved", "Reserving", "Shrinking", "Unreachable")
"""Reasons of pools that sum up what nodes say with their own."""

STATES: Final = (("any", "any"), ("trouble", "needs attention"), ("ready", "ready"))
ORDERS: Final = (
    ("trouble", "trouble first"),
    ("name", "by name"),
    ("allocated", "most allocated"),
    ("free", "most free"),
)


@dataclasses.dataclass(frozen=True)
class Link:
    """A name that leads somewhere."""

    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class Trouble:
    """A trouble with what it is about; `more` further objects are behind `more_path`."""

    tone: str
    title: str
    message: str
    since: str = ""
    where: tuple[Link, ...] = ()
    more: int = 0
    more_path: str = ""


@dataclasses.dataclass(frozen=True)
class PoolRow:
    """A pool in the overview; memory in bytes."""

    name: str
    state: texts.State
    unit: str
    source: str
    capacity: int
    allocated: int
    ready: int
    matched: int
    share: shares.Share


@dataclasses.dataclass(frozen=True)
class NodeCounts:
    """Nodes counted; `said` describes the field to who cannot see it."""

    total: int
    ready: int
    said: str


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Those that are trouble, the worst first, and those that are fine."""

    troubles: tuple[Trouble, ...]
    fine: tuple[str, ...]


def sums_of_nodes(rows: Sequence[summary.Row]) -> shares.Sums:
    """The memory of all nodes."""
    return shares.Sums(
        capacity=sum(row.capacity_bytes for row in rows),
        allocated=sum(row.allocated_bytes for row in rows),
        free=sum(row.free_bytes for row in rows),
        ordered=sum(max(row.ordered_bytes, row.capacity_bytes) for row in rows),
    )


def sums_of_pools(pools: Sequence[views.PoolView]) -> shares.Sums:
    """The memory of all pools, where nodes may not be seen."""
    capacity = sum(pool.capacity_bytes for pool in pools)
    allocated = sum(pool.allocated_bytes for pool in pools)
    ordered = sum(max(pool.capacity_bytes, _ordered(pool)) for pool in pools)
    return shares.Sums(capacity, allocated, max(0, capacity - allocated), ordered)


def _ordered(pool: views.PoolView) -> int:
    return pool.node_capacity_bytes * pool.nodes.matched


def counts(rows: Sequence[summary.Row]) -> NodeCounts:
    """How many nodes there are, and how they stand."""
    tones = [row.tone for row in rows]
    warn, bad = tones.count(summary.Tone.WARN), tones.count(summary.Tone.BAD)
    ready = len(tones) - warn - bad
    return NodeCounts(
        total=len(rows),
        ready=ready,
        said=f"{len(rows)} nodes: {ready} ready, {warn} need a look, on {bad} nothing new starts",
    )


def cells(rows: Sequence[summary.Row]) -> list[field.Cell]:
    """The field's cells, in the order of the rows."""
    tones: Mapping[summary.Tone, field.Tone] = {
        summary.Tone.WARN: "warn-",
        summary.Tone.BAD: "bad-",
    }
    return [
        field.Cell(
            row.allocated_bytes / row.capacity_bytes if row.capacity_bytes else 0.0,
            tones.get(row.tone, ""),
        )
        for row in rows
    ]


def fleet_troubles(
    pools: Sequence[views.PoolView],
    rows: Sequence[summary.Row] | None,
    now: datetime.datetime,
) -> list[Trouble]:
    """What needs attention, the worst first: of nodes, and of pools what no node says."""
    found: list[tuple[summary.Tone, Trouble]] = []
    for pool in pools:
        for trouble in summary.of_pool(pool.conditions):
            if rows is None or trouble.reason not in _SAID_BY_NODES:
                title = f"{texts.words(trouble.reason)}: pool"
                link = Link(pool.name, f"/pools/{pool.name}")
                found.append((trouble.tone, _shown(trouble, now, title, [link])))
    found += [(group.trouble.tone, _grouped(group, now)) for group in summary.group(rows or ())]
    found.sort(key=lambda it: -it[0])
    shown = [it for _, it in found[:_MOST_TROUBLES]]
    if rest := len(found) - len(shown):
        title = f"{rest} more kinds of trouble, none worse than these"
        shown.append(Trouble("info", title, "The list of nodes has them all."))
    return shown


def _grouped(group: summary.Group, now: datetime.datetime) -> Trouble:
    trouble, names = group.trouble, group.names
    nodes = "1 node" if len(names) == 1 else f"{texts.count(len(names))} nodes"
    title = f"{texts.words(trouble.reason)}: {nodes}"
    if trouble.is_pool:
        title = f"{texts.words(trouble.reason)}: pool {trouble.subject} on {nodes}"
    if len(names) > 1:
        trouble = trouble._replace(message=f"{texts.short(names[0])}: {trouble.message}")
    links = [Link(name, f"/nodes/{name}") for name in names]
    path = lists.link("/nodes", {"reason": trouble.reason})
    return _shown(trouble, now, title, links, more_path=path)


def _shown(
    trouble: summary.Trouble,
    now: datetime.datetime,
    title: str,
    links: Sequence[Link] = (),
    *,
    more_path: str = "",
) -> Trouble:
    return Trouble(
        tone=trouble.tone.name.lower(),
        title=title[:1].upper() + title[1:],
        message=trouble.message,
        since=texts.age(trouble.since, now),
        where=tuple(links[:_NAMED]),
        more=max(0, len(links) - _NAMED),
        more_path=more_path,
    )


def pool_row(pool: views.PoolView) -> PoolRow:
    """A pool in the overview."""
    worst = sorted(summary.troubles(pool.conditions), key=lambda trouble: -trouble.tone)
    return PoolRow(
        name=pool.name,
        state=texts.state(tuple(worst)) if pool.conditions else texts.State("info", "new"),
        unit=pool.unit,
        source=pool.source,
        capacity=pool.capacity_bytes,
        allocated=pool.allocated_bytes,
        ready=pool.nodes.ready,
        matched=pool.nodes.matched,
        share=sums_of_pools([pool]).share,
    )


@dataclasses.dataclass(frozen=True)
class NumaBar:
    """What a NUMA node gives to a pool, beside what the pool has there in all."""

    node: int
    capacity_bytes: int
    share: shares.Share


@dataclasses.dataclass(frozen=True)
class NodePool:
    """A pool on one node."""

    pool: views.NodePoolView
    state: texts.State
    share: shares.Share
    numa: tuple[NumaBar, ...]


def node_pools(node: views.NodeView) -> list[NodePool]:
    """The pools of a node; the bars of its NUMA nodes can be compared with each other."""
    found = []
    for pool in node.pools:
        most = max((share.capacity_bytes for share in pool.numa), default=0)
        found.append(
            NodePool(
                pool=pool,
                state=texts.State("good", "ready")
                if pool.ready == "True"
                else texts.State("warn", texts.words(pool.reason)),
                share=shares.share(pool.capacity_bytes, pool.allocated_bytes, pool.ordered_bytes),
                numa=tuple(
                    NumaBar(
                        each.node,
                        each.capacity_bytes,
                        shares.part(each.capacity_bytes, most),
                    )
                    for each in pool.numa
                ),
            )
        )
    return found


def conditions(
    troubles: Sequence[summary.Trouble],
    of: Sequence[v1alpha1.Condition],
    now: datetime.datetime,
) -> Conditions:
    """The conditions `of` an object, and its `troubles`, of which it need not tell each itself."""
    bad = {trouble.subject for trouble in summary.troubles(of)}
    return Conditions(
        troubles=tuple(
            _shown(
                trouble,
                now,
                f"{texts.words(trouble.reason)}: pool {trouble.subject}"
                if trouble.is_pool
                else texts.words(trouble.reason),
            )
            for trouble in troubles
        ),
        fine=tuple(texts.fine(each) for each in of if each.type not in bad),
    )


def select(
    rows: Sequence[summary.Row],
    *,
    name: str = "",
    pool: str = "",
    state: str = "any",
    reason: str = "",
    order: str = "trouble",
) -> list[summary.Row]:
    """The nodes that a filter leaves, in the order asked for."""
    found = [
        row
        for row in rows
        if name.lower() in row.name
        and (not pool or pool in row.pools)
        and (state == "any" or (row.tone >= summary.Tone.WARN) == (state == "trouble"))
        and (not reason or any(trouble.reason == reason for trouble in row.troubles))
    ]
    if order == "trouble":
        found.sort(key=lambda row: -row.tone)
    elif order == "allocated":
        found.sort(key=lambda row: -row.allocated_bytes)
    elif order == "free":
        found.sort(key=lambda row: -row.free_bytes)
    return found
