"""Pools of a GiB of each source that som.ko serves, and pods that use two of them, all of each.

A node has one pool per unit: of External or DevDax in units of 2 MiB, and of Carved or donated huge
pages beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cluster.scenes import pods
from vm.memory import ABSENT, GIB
from vm.node.machine import VirtualCluster
from vm.node.memory import CARVABLE, RESERVED

ZEROED, ONES = "0", "0x1111111111111111"


def _pool(name: str, source: str, *, capacity: str = "1Gi", unit: str = "2Mi") -> str:
    return (
        f"apiVersion: som.io/v1alpha1\nkind: SomPool\nmetadata: {{name: {name}}}\n"
        f"spec: {{unit: {unit}, capacity: {capacity}, source: {{{source}}}, "
        "driver: {type: Kernel}}\n"
    )


EXTERNAL = _pool("external", f'external: {{ranges: ["{RESERVED.written}"]}}')
NOT_EXTERNAL = _pool(
    "external", f'external: {{ranges: ["{CARVABLE.written}", "{ABSENT.written}"]}}'
)
CARVED = _pool("carved", "carved: {}", unit="1Gi")
MORE_THAN_THE_NODE_HAS = _pool("carved", "carved: {}", capacity="64Gi", unit="1Gi")
DEVDAX = _pool("devdax", 'devDax: {devices: ["dax0.0"]}')
DEVDAX_OF_A_PATTERN = _pool("devdax", 'devDax: {devices: ["dax9.*", "dax0.0"]}')
DONATED = _pool("donated", "hugeTLB: {pageSize: 2Mi}", unit="1Gi")
DONATED_GIB = _pool("gib", "hugeTLB: {pageSize: 1Gi}", unit="1Gi")

CONTAINERS = {"2mi": 512, "1gi": 1}
"""Of a pod that uses all memory of both pools: the units of each, which its name says."""
SAID = [
    "id: uid 10001 gid 0 capabilities 0000000000000000",
    f"size: {GIB}",
    "check: same",
    "overgrow: ENOMEM",
    f"fill: {ONES}",
]
"""What each container says, once it has found its quota, zeroed, and not a chunk more."""


def containers(*end: str, names: Collection[str] = CONTAINERS) -> list[Any]:
    """Containers that say `SAID`, and end with these steps."""
    steps = ("id", "size", "check", ZEROED, "overgrow", "fill", ONES, *end)
    return [
        pods.container(*steps, name=name, units=CONTAINERS[name], resource=f"som.io/{name.title()}")
        for name in names
    ]


def assert_said(cluster: VirtualCluster, pod: str, names: Collection[str] = CONTAINERS) -> None:
    """Each of these containers says `SAID`, and holds its memory then."""
    for name in names:
        assert pods.wait_output(cluster, pod, "hold", container=name) == [*SAID, "hold"]


def wait_ready(cluster: VirtualCluster, *names: str) -> None:
    pools = [f"sompool/{name}" for name in names]
    cluster.kubectl("wait", "--for=condition=Ready", *pools, "--timeout=120s")


def wait_told(cluster: VirtualCluster, pool: str, *wanted: str) -> None:
    """Wait until the pool's conditions say all of this."""

    def is_told() -> bool:
        conditions = cluster.get("sompool", pool).get("status", {}).get("conditions", ())
        told = "\n".join(each["message"] for each in conditions)
        return all(each in told for each in wanted)

    cluster.wait_for(f"{wanted} to be told of pool {pool}", is_told)
