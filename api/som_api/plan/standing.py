"""SomPools as the plan reads them: who may change a node, and what a node must then reserve."""

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Set
from typing import Final

from som_api import v1alpha1
from som_api.plan import observed

FINALIZER: Final = "som.io/release"


class Standing(enum.Enum):
    """What a pool may do to the nodes' specs."""

    ACTIVE = enum.auto()
    FROZEN = enum.auto()
    """Nothing changes anywhere: it is paused, unknown, or not held by our finalizer yet."""
    RELEASED = enum.auto()
    """It leaves every node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """One SomPool with what follows from it alone: its standing and its entry in a SomNode."""

    sompool: v1alpha1.SomPool
    standing: Standing
    entry: v1alpha1.NodePool

    @property
    def name(self) -> str:
        return self.sompool.metadata.name

    def wants(self, node: observed.Node, *, ordered: Set[str], bound: observed.BoundPods) -> bool:
        """Whether this pool is for `node`, where the pools named in `ordered` are already.

        Without a selector it is for every node that runs the agent, and stays there: agents come
        and go with every upgrade.
        """
        selector = self.sompool.spec.node_selector
        if selector is None:
            return bound.runs_agent or self.name in ordered
        return selector.matches(node.labels)


class Pools:
    """All SomPools, in the order of their names.

    `gone` names pools of which the API server said, asked by name, that they do not exist. A
    pool that is merely absent from a list is unknown, and an unknown pool changes nothing.
    """

    def __init__(
        self, sompools: Iterable[v1alpha1.SomPool], *, gone: Set[str] = frozenset()
    ) -> None:
        self._gone = gone
        self.by_name: Mapping[str, Pool] = {
            sompool.metadata.name: _pool(sompool)
            for sompool in sorted(sompools, key=lambda sompool: sompool.metadata.name)
        }
        self.active: Mapping[v1alpha1.Unit, tuple[Pool, ...]] = {
            unit: tuple(
                pool
                for pool in self.by_name.values()
                if pool.standing is Standing.ACTIVE and pool.entry.unit == unit
            )
            for unit in observed.UNITS
        }

    def standing(self, name: str) -> Standing:
        """The standing of a pool that may not exist."""
        pool = self.by_name.get(name)
        if pool is not None:
            return pool.standing
        return Standing.RELEASED if name in self._gone else Standing.FROZEN


def _pool(sompool: v1alpha1.SomPool) -> Pool:
    metadata, spec = sompool.metadata, sompool.spec
    if spec.paused:
        standing = Standing.FROZEN
    elif metadata.deletion_timestamp:
        standing = Standing.RELEASED
    else:
        standing = Standing.ACTIVE if FINALIZER in metadata.finalizers else Standing.FROZEN
    return Pool(sompool, standing, v1alpha1.NodePool.of(sompool))
