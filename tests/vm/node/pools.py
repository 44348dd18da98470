"""Pools of each source that som.ko serves, and pods that use two of them, all of each.

A node has one pool per unit: of External, DevDax and 2 MiB at a time, and of Carved or donated huge
pages beside it.
"""

from __future__ import annotations

from typing import Any

from cluster.scenes import pods
from vm.memory import ABSENT, CARVABLE, RESERVED
from vm.node.machine import VirtualCluster

MIB, GIB = 2**20, 2**30
ZEROED, ONES = "0", "0x1111111111111111"


def _pool(name: str, source: str, *, capacity: str = "64Mi", unit: str = "2Mi") -> str:
    return (
        f"apiVersion: som.io/v1alpha1\nkind: SomPool\nmetadata: {{name: {name}}}\n"
        f"spec: {{unit: {unit}, capacity: {capacity}, source: {{{source}}}, "
        "driver: {type: Kernel}}\n"
    )


EXTERNAL = _pool("external", f'external: {{ranges: ["{RESERVED.written}"]}}')
NOT_EXTERNAL = _pool(
    "external", f'external: {{ranges: ["{CARVABLE.written}", "{ABSENT.written}"]}}'
)
CARVED = _pool("carved", "carved: {}", capacity="1Gi", unit="1Gi")
MORE_THAN_THE_NODE_HAS = _pool("carved", "carved: {}", capacity="64Gi", unit="1Gi")
DEVDAX = _pool("devdax", 'devDax: {devices: ["dax0.0"]}')
DEVDAX_OF_A_PATTERN = _pool("devdax", 'devDax: {devices: ["dax9.*", "dax0.0"]}')
DONATED = _pool("donated", "hugeTLB: {pageSize: 2Mi}", capacity="1Gi", unit="1Gi")

CONTAINERS = {"small": (32, "som.io/2Mi", 64 * MIB), "large": (1, "som.io/1Gi", GIB)}
"""Of a pod that uses all memory of both pools: units, resource and bytes of each."""
SAID = {
    name: [
        "id: uid 10001 gid 0 capabilities 0000000000000000",
        f"size: {size}",
        "check: same",
        "overgrow: ENOMEM",
        f"fill: {ONES}",
    ]
    for name, (_, _, size) in CONTAINERS.items()
}
"""What each container says, once it has found its quota, zeroed, and not a chunk more."""


def containers(*end: str) -> list[Any]:
    """Containers that say `SAID`, and end with these steps."""
    steps = ("id", "size", "check", ZEROED, "overgrow", "fill", ONES, *end)
    return [
        pods.container(*steps, name=name, units=units, resource=resource)
        for name, (units, resource, _) in CONTAINERS.items()
    ]


def wait_said(cluster: VirtualCluster, pod: str) -> dict[str, list[str]]:
    """What each container of the pod has said, once it holds its memory."""
    return {
        name: pods.wait_output(cluster, pod, "hold", container=name)[:-1] for name in CONTAINERS
    }


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
