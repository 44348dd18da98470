"""What the fleet API needs to know. The operator implements it, a test has `fakes.fleet`."""

import asyncio
import collections
import dataclasses
import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from som_api import SomError, leases, v1alpha1

REMEMBERED: Final = 8192
"""Changes that a watch can be behind: 5 000 nodes that report every 30 s make 167 a second."""

Kind = Literal["pool", "node", "event"]


class AgentSilent(SomError):
    """An agent did not tell its leases; the text says why, in few words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One node: its SomNode, and whether kubelet and agent are ready there."""

    somnode: v1alpha1.SomNode
    kubelet_ready: bool
    agent_ready: bool

    def is_as(self, before: "Node") -> bool:
        """Whether it is as it was; a SomNode that was read again counts as another one."""
        return (
            self.somnode is before.somnode
            and self.kubelet_ready == before.kubelet_ready
            and self.agent_ready == before.agent_ready
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An Event of som on a Node, SomNode or SomPool (`kind` and `name`); times are RFC 3339."""

    id: str
    kind: str
    name: str
    type: str
    reason: str
    message: str
    component: str
    count: int
    first: str
    last: str


class Change(NamedTuple):
    """Something about the object of this kind and name is not as before."""

    kind: Kind
    name: str


class Changes:
    """The latest changes in their order, for any number of readers that keep their own place.

    Nothing is kept for a reader: one that falls behind `REMEMBERED` changes is told so. `epoch`
    tells places in this process's order from those in another's.
    """

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self._latest: collections.deque[Change] = collections.deque(maxlen=REMEMBERED)
        self._news = asyncio.Event()
        self.place = 0
        """Number of changes so far."""

    @property
    def version(self) -> str:
        """The place now, as clients know it."""
        return f"{self.epoch}-{self.place}"

    def place_of(self, version: str) -> int | None:
        """The place that `version` names; None: of another process, or none."""
        epoch, _, place = version.partition("-")
        is_ours = epoch == self.epoch and place.isdecimal() and len(place) < 20
        return int(place) if is_ours else None

    def note(self, kind: Kind, name: str) -> None:
        """Something changed; quick."""
        self._latest.append(Change(kind, name))
        self.place += 1
        self._news.set()
        self._news = asyncio.Event()

    def since(self, place: int) -> Sequence[Change] | None:
        """The changes after `place`; None: they are forgotten, or `place` never was."""
        missed = self.place - place
        if not 0 <= missed <= len(self._latest):
            return None
        return list(itertools.islice(self._latest, len(self._latest) - missed, None))

    async def wait(self, place: int | None) -> None:
        """Return when there are changes after `place`; at once if that is none of ours."""
        while self.place == place:
            await self._news.wait()


class Fleet(Protocol):
    """Answers come from memory, save for leases."""

    changes: Changes

    @property
    def synced(self) -> bool:
        """Whether everything has been listed."""

    @property
    def pools(self) -> Mapping[str, v1alpha1.SomPool]:
        """The SomPools that can be read, by name."""

    def node_names(self) -> Sequence[str]:
        """Names of all nodes with a SomNode that can be read, sorted."""

    def node(self, name: str) -> Node | None:
        """One of them."""

    def nodes_with_leases(self, namespace: str) -> Sequence[str]:
        """Names of nodes that may have leases of pods of `namespace`, sorted; "": of any pods."""

    def events(self) -> Sequence[Event]:
        """The latest Events of som, the newest first."""

    async def leases_of(self, node: str) -> Sequence[leases.Lease]:
        """Ask the agent of `node`; bounded in time.

        Raises:
            AgentSilent: no answer, or none of use.
        """
