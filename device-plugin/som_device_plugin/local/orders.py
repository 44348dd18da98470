"""The orders for this machine's agent, in the place of the operator's."""

import contextlib
import json
from collections.abc import Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin.linux import cgroups
from som_device_plugin.local import layout, limits

_CONTROLLER: Final = "local.som.io/hugetlb-controller-was"
"""Annotation: what to restore on cgroup v2 when everything is given back."""


def read(state_dir: layout.StateDir) -> v1alpha1.SomNode | None:
    """What was ordered last; None before the first order."""
    try:
        return v1alpha1.SomNode.from_manifest(json.loads(state_dir.orders.read_text("utf-8")))
    except FileNotFoundError:
        return None


def of(pool: v1alpha1.SomPool) -> v1alpha1.NodePool:
    """The share of `pool` that this machine is to have: all of it."""
    return v1alpha1.NodePool(
        name=pool.metadata.name,
        generation=1,
        unit=pool.spec.unit,
        capacity=pool.spec.capacity,
        source=pool.spec.source,
    )


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


def remove_cgroups(state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
    """Remove the groups of leases and programs, and leave the controller as it was found."""
    for root in (hierarchy.som(state_dir.path), limits.root(state_dir, hierarchy)):
        for group in sorted(root.rglob("*/"), reverse=True):
            hierarchy.remove(group)
        hierarchy.remove(root)
    known = read(state_dir)
    was_off = known and known.metadata.annotations.get(_CONTROLLER) == "off"
    # A group of somebody else would lose its limits with the controller.
    limits_of_others = hierarchy.root.glob("*/hugetlb.*.max")
    if was_off and all(limit.read_text().strip() == "max" for limit in limits_of_others):
        # Refused where others have switched it on further below; then it stays on.
        with contextlib.suppress(OSError):
            (hierarchy.root / "cgroup.subtree_control").write_text("-hugetlb", encoding="ascii")


def _bare(pools: Sequence[v1alpha1.NodePool]) -> list[v1alpha1.NodePool]:
    return [pool.model_copy(update={"generation": 0}) for pool in pools]


def _controller(hierarchy: cgroups.Hierarchy) -> str:
    if hierarchy.version == 1:
        return "on"
    enabled = (hierarchy.root / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return "on" if "hugetlb" in enabled else "off"
