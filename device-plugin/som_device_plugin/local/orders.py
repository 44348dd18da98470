"""The orders for this machine's agent, in the place of the operator's, and what it reports."""

import json
from collections.abc import Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin.linux import cgroups
from som_device_plugin.local import layout

_CONTROLLER: Final = "local.som.io/hugetlb-controller-was"
"""Annotation: what to restore on cgroup v2 when everything is given back."""


def read(state_dir: layout.StateDir) -> v1alpha1.SomNode | None:
    """What was ordered last; None before the first order."""
    try:
        return v1alpha1.SomNode.model_validate(json.loads(state_dir.orders.read_text("utf-8")))
    except FileNotFoundError:
        return None


def write(
    state_dir: layout.StateDir, pools: Sequence[v1alpha1.NodePool], hierarchy: cgroups.Hierarchy
) -> int:
    """Order `pools` and nothing else; answers the order's generation, a new one if it differs."""
    known = read(state_dir)
    if known and _bare(known.spec.pools) == _bare(pools):
        return known.metadata.generation
    generation = known.metadata.generation + 1 if known else 1
    annotations = known.metadata.annotations if known else {_CONTROLLER: _controller(hierarchy)}
    node = v1alpha1.SomNode(
        metadata=v1alpha1.ObjectMeta(name="local", generation=generation, annotations=annotations),
        spec=v1alpha1.SomNodeSpec(
            pools=tuple(pool.model_copy(update={"generation": generation}) for pool in pools)
        ),
    )
    layout.write_atomically(state_dir.orders, node.model_dump_json(exclude_defaults=True, indent=2))
    return generation


def read_status(state_dir: layout.StateDir) -> v1alpha1.SomNodeStatus | None:
    """What the agent reported last; None before its first report."""
    try:
        return v1alpha1.SomNodeStatus.model_validate_json(state_dir.status.read_text("utf-8"))
    except FileNotFoundError:
        return None


def ready(pool: v1alpha1.PoolStatus) -> v1alpha1.Condition:
    """The pool's condition Ready, which every report has."""
    return next(condition for condition in pool.conditions if condition.type == "Ready")


def controller_was_off(state_dir: layout.StateDir) -> bool:
    """Whether cgroup v2's root gave its children no hugetlb controller before the first order."""
    known = read(state_dir)
    return bool(known and known.metadata.annotations.get(_CONTROLLER) == "off")


def _bare(pools: Sequence[v1alpha1.NodePool]) -> list[v1alpha1.NodePool]:
    return [pool.model_copy(update={"generation": 0}) for pool in pools]


def _controller(hierarchy: cgroups.Hierarchy) -> str:
    if hierarchy.version == 1:
        return "on"
    enabled = (hierarchy.root / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return "on" if "hugetlb" in enabled else "off"
