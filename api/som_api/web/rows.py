"""What is made of pools and nodes, once, and kept until the object changes.

A list of 5 000 nodes is 7 MB, and made of bytes that are there already.
"""

import dataclasses
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from som_api import v1alpha1
from som_api.web import fleet, views


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One object as JSON, and what lists filter by."""

    json: bytes
    ready: bool
    pools: frozenset[str] = frozenset()


T = TypeVar("T")
_FEW: Final = 100


class Kept(Generic[T]):
    """What `make` makes of each node: of the one that is there now, and of no other.

    Nodes come and go under new names: what was made of those that are gone is dropped before they
    are as many as the others.
    """

    def __init__(self, of: fleet.Fleet, make: Callable[[fleet.Node], T]) -> None:
        self._fleet = of
        self._make = make
        self._kept: dict[str, tuple[fleet.Node, T]] = {}
        self._most = _FEW

    def of(self, name: str) -> T | None:
        """What is made of a node, or None where there is no such node."""
        found = self._fleet.node(name)
        if found is None:
            self._kept.pop(name, None)
            return None
        kept = self._kept.get(name)
        if kept is None or not found.is_as(kept[0]):
            self._make_room()
            kept = self._kept[name] = found, self._make(found)
        return kept[1]

    def _make_room(self) -> None:
        if len(self._kept) >= self._most:
            here = self._fleet.node_names()
            self._kept = {name: self._kept[name] for name in here if name in self._kept}
            self._most = max(_FEW, 2 * len(here))


class Rows:
    """The rows of a fleet."""

    def __init__(self, of: fleet.Fleet) -> None:
        self._fleet = of
        self._pools: dict[str, tuple[v1alpha1.SomPool, Row]] = {}
        self._nodes = Kept(of, _node_row)

    def pool(self, name: str) -> Row | None:
        """The row of a pool, or None where there is no such pool."""
        found = self._fleet.pools.get(name)
        if found is None:
            self._pools.pop(name, None)
            return None
        kept = self._pools.get(name)
        if kept is None or kept[0] is not found:
            kept = self._pools[name] = found, _pool_row(found)
        return kept[1]

    def node(self, name: str) -> Row | None:
        """The row of a node, or None where there is no such node."""
        return self._nodes.of(name)


def _pool_row(found: v1alpha1.SomPool) -> Row:
    view = views.pool(found)
    return Row(view.model_dump_json().encode(), view.ready == "True")


def _node_row(found: fleet.Node) -> Row:
    view = views.node(found)
    pools = frozenset(pool.name for pool in view.pools)
    return Row(view.model_dump_json().encode(), view.ready, pools)
