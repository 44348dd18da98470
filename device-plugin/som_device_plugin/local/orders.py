"""The orders for this machine's agent, in the place of the operator's."""

import contextlib
import json
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


def write(
    state_dir: layout.StateDir, pool: v1alpha1.SomPool | None, hierarchy: cgroups.Hierarchy
) -> int:
    """Order `pool` and nothing else, or nothing at all; answers the order's generation."""
    known = read(state_dir)
    generation = known.metadata.generation + 1 if known else 1
    spec = v1alpha1.SomNodeSpec(pools=(_node_pool(pool, generation),) if pool else ())
    if known and _same(known.spec, spec):
        return known.metadata.generation
    annotations = known.metadata.annotations if known else {_CONTROLLER: _controller(hierarchy)}
    node = v1alpha1.SomNode(
        metadata=v1alpha1.ObjectMeta(name="local", generation=generation, annotations=annotations),
        spec=spec,
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
    if known and known.metadata.annotations.get(_CONTROLLER) == "off":
        # Refused while others use the controller; then it was not ours to switch off.
        with contextlib.suppress(OSError):
            (hierarchy.root / "cgroup.subtree_control").write_text("-hugetlb", encoding="ascii")


def _node_pool(pool: v1alpha1.SomPool, generation: int) -> v1alpha1.NodePool:
    return v1alpha1.NodePool(
        name=pool.metadata.name,
        generation=generation,
        unit=pool.spec.unit,
        capacity=pool.spec.capacity,
        source=pool.spec.source,
    )


def _same(one: v1alpha1.SomNodeSpec, other: v1alpha1.SomNodeSpec) -> bool:
    def bare(spec: v1alpha1.SomNodeSpec) -> list[v1alpha1.NodePool]:
        return [pool.model_copy(update={"generation": 0}) for pool in spec.pools]

    return bare(one) == bare(other)


def _controller(hierarchy: cgroups.Hierarchy) -> str:
    if hierarchy.version == 1:
        return "on"
    enabled = (hierarchy.root / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return "on" if "hugetlb" in enabled else "off"
