"""What the page shows of every node at once: sums, and what is wrong there. Pure but for a cache.

5 000 nodes are summed up for each view of the fleet, so a node is looked at again only when its
SomNode is another than before.
"""

import enum
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from som_api import v1alpha1
from som_api.web import context, rows
from som_api.web import fleet as fleets


class Tone(enum.IntEnum):
    """How much of a trouble something is; the worst is the largest."""

    GOOD = 0
    INFO = 1
    """Work goes on, or an admin may want to know."""
    WARN = 2
    BAD = 3
    """Nothing new starts there."""


class Trouble(NamedTuple):
    """One thing that is not as it should be. `subject` is the pool or the type of condition."""

    tone: Tone
    subject: str
    reason: str
    message: str
    since: str | None = None
    is_pool: bool = False


class Row(NamedTuple):
    """One node: memory in bytes, and its troubles, the worst first."""

    name: str
    ordered_bytes: int
    capacity_bytes: int
    allocated_bytes: int
    free_bytes: int
    pools: tuple[str, ...]
    troubles: tuple[Trouble, ...]

    @property
    def tone(self) -> Tone:
        return self.troubles[0].tone if self.troubles else Tone.GOOD


_WELL_WHEN_TRUE: Final = ("Ready", "AgentReady", "DriverLoaded")
_TONES: Final = {
    "AgentReady": Tone.BAD,
    "Blocked": Tone.BAD,
    "DriverLoaded": Tone.BAD,
    "BooksPending": Tone.INFO,
    "Progressing": Tone.INFO,
}
_AT_WORK: Final = ("NotReported", "Paused", "Releasing", "Reserving", "Shrinking")
"""Reasons for which Ready is not true while all goes as ordered."""
_SILENT: Final = Trouble(
    Tone.BAD,
    "Node",
    "KubeletNotReady",
    "Kubelet is not ready: what is said of this node may be old. "
    "See kubectl describe node, and kubelet's log there.",
)
_NO_AGENT: Final = Trouble(
    Tone.BAD,
    "AgentReady",
    "AgentNotReady",
    "The agent is not ready: no container with som memory starts here, and none gives memory "
    "back. Running pods keep theirs. See the log of the node's agent.",
)


def troubles(conditions: Sequence[v1alpha1.Condition], *, subject: str = "") -> Iterator[Trouble]:
    """What of `conditions` is not as it should be; those of a pool have it as their `subject`."""
    for each in conditions:
        if each.status == ("True" if each.type in _WELL_WHEN_TRUE else "False"):
            continue
        tone = _TONES.get(each.type, Tone.WARN)
        if each.status == "Unknown" or each.reason in _AT_WORK:
            tone = Tone.INFO
        since = each.last_transition_time
        yield Trouble(
            tone, subject or each.type, each.reason, each.message, since, is_pool=bool(subject)
        )


def of_pool(conditions: Sequence[v1alpha1.Condition]) -> list[Trouble]:
    """The troubles of a SomPool, the worst first, each reason once."""
    found = sorted(troubles(conditions), key=lambda trouble: -trouble.tone)
    return list({trouble.reason: trouble for trouble in reversed(found)}.values())[::-1]


def row(found: fleets.Node) -> Row:
    """The summary of one node."""
    somnode = found.somnode
    ordered, reported = somnode.spec.pools, somnode.status.pools
    return Row(
        name=somnode.metadata.name,
        ordered_bytes=sum(entry.capacity for entry in ordered),
        capacity_bytes=sum(pool.capacity for pool in reported),
        allocated_bytes=sum(pool.allocated for pool in reported),
        free_bytes=sum(pool.free for pool in reported),
        pools=tuple(sorted({e.name for e in ordered} | {p.name for p in reported})),
        troubles=tuple(sorted(_of_node(found), key=lambda trouble: -trouble.tone)),
    )


def _silence(found: fleets.Node) -> list[Trouble]:
    """What keeps the node from being heard, where its SomNode does not say it."""
    if not found.kubelet_ready:
        return [_SILENT]
    told = [each for each in found.somnode.status.conditions if each.type == "AgentReady"]
    is_told = any(each.status == "False" for each in told)
    return [] if found.agent_ready or is_told else [_NO_AGENT]


def _of_node(found: fleets.Node) -> Iterator[Trouble]:
    status = found.somnode.status
    yield from _silence(found)
    if not found.kubelet_ready:
        return
    short = [each for pool in status.pools for each in troubles(pool.conditions, subject=pool.name)]
    yield from short
    for each in troubles(status.conditions):
        # The node's Ready repeats what its pools say.
        if each.subject != "Ready" or not short:
            yield each
    missing = {entry.name for entry in found.somnode.spec.pools} - {p.name for p in status.pools}
    for name in sorted(missing):
        text = "The agent has not reported it yet."
        yield Trouble(Tone.INFO, name, "NotReported", text, is_pool=True)


class Summaries:
    """The rows of all nodes, by name, kept from one look to the next."""

    def __init__(self, fleet: fleets.Fleet) -> None:
        self._fleet = fleet
        self._kept = rows.Kept(fleet, row)
        self._rows: list[Row] = []
        self._place = -1

    async def rows(self) -> Sequence[Row]:
        """Every node that can be read, sorted by name; the same list until something changes.

        Others have their turns meanwhile: the first look at 5 000 nodes takes most of a second.
        """
        place = self._fleet.changes.place
        if self._place == place:
            return self._rows
        found, turns = list[Row](), context.Turns()
        for name in self._fleet.node_names():
            await turns.rest()
            if (here := self._kept.of(name)) is not None:
                found.append(here)
        self._rows, self._place = found, place
        return found


class Group(NamedTuple):
    """The same trouble on several nodes: their names, and what the first of them says."""

    trouble: Trouble
    names: tuple[str, ...]


def group(rows: Sequence[Row]) -> list[Group]:
    """The troubles of all nodes, the worst first and then those that most nodes have."""
    found: dict[tuple[str, str], list[tuple[str, Trouble]]] = {}
    for each in rows:
        for trouble in each.troubles:
            found.setdefault((trouble.subject, trouble.reason), []).append((each.name, trouble))
    groups = [Group(there[0][1], tuple(name for name, _ in there)) for there in found.values()]
    return sorted(groups, key=lambda it: (-it.trouble.tone, -len(it.names), it.trouble.subject))
