"""What the commands that look print: rows of values, made of what the cluster says."""

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from som_api import v1alpha1
from som_api.plan import observed
from som_kubectl import cluster, kubectl, table, troubles


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """One SomPool; bytes are the sums over all nodes."""

    name: str
    unit: str
    capacity_bytes: int
    allocated_bytes: int
    nodes: int
    ready_nodes: int
    ready: str
    reason: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One node with som memory; `trouble` is the first of its conditions not as it should be."""

    name: str
    ready: bool
    pools: Sequence[str]
    capacity_bytes: int
    allocated_bytes: int
    free_bytes: int
    agent_version: str
    kernel: str
    trouble: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """Memory that one container requests; `pool` is "" where it is not known."""

    namespace: str
    pod: str
    container: str
    node: str
    pool: str
    unit: str
    requested_bytes: int
    state: str
    created: str


def pools(sompools: Iterable[v1alpha1.SomPool], unreadable: Mapping[str, str]) -> list[Pool]:
    """Rows of SomPools, by name."""
    rows = [_pool(sompool) for sompool in sompools]
    rows += [
        Pool(name, "", 0, 0, 0, 0, "Unknown", "Unreadable", problem)
        for name, problem in unreadable.items()
    ]
    return sorted(rows, key=lambda row: row.name)


def _pool(sompool: v1alpha1.SomPool) -> Pool:
    status = sompool.status
    ready = cluster.condition(status.conditions, "Ready")
    return Pool(
        name=sompool.metadata.name,
        unit=sompool.spec.unit,
        capacity_bytes=status.capacity,
        allocated_bytes=status.allocated,
        nodes=status.nodes.matched,
        ready_nodes=status.nodes.ready,
        ready=ready.status if ready else "Unknown",
        reason=ready.reason if ready else "NotSeen",
        message=ready.message if ready else "the operator has not seen this pool yet",
    )


def nodes(
    somnodes: Mapping[str, cluster.SomNode], kubelets: Mapping[str, observed.Node]
) -> list[Node]:
    """Rows of SomNodes, by name."""
    return [_node(name, somnode, kubelets.get(name)) for name, somnode in sorted(somnodes.items())]


def _node(name: str, somnode: cluster.SomNode, kubelet: observed.Node | None) -> Node:
    if isinstance(somnode, observed.UnreadableSomNode):
        names = sorted(somnode.pools)
        return Node(name, False, names, 0, 0, 0, "", "", "Unreadable", somnode.problem)
    status = somnode.status
    bad = troubles.of_node(name, somnode, kubelet)
    ordered = [entry.name for entry in somnode.spec.pools]
    return Node(
        name=name,
        ready=not bad,
        pools=sorted({*ordered, *(pool.name for pool in status.pools)}),
        capacity_bytes=sum(pool.capacity for pool in status.pools),
        allocated_bytes=sum(pool.allocated for pool in status.pools),
        free_bytes=sum(pool.free for pool in status.pools),
        agent_version=status.agent_version,
        kernel=status.kernel_version,
        trouble=bad[0].reason if bad else "",
        message=bad[0].said if bad else "",
    )


def leases(
    pods: Iterable[kubectl.Json], somnodes: Mapping[str, cluster.SomNode]
) -> Iterator[Lease]:
    """Rows of the Pods that request som memory and have not ended."""
    for pod in pods:
        if kubectl.text(pod, "status", "phase") in ("Succeeded", "Failed"):
            continue
        metadata, spec = pod["metadata"], pod["spec"]
        node = spec.get("nodeName", "")
        states = _states(pod)
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            for unit, count in requested(container).items():
                yield Lease(
                    namespace=metadata["namespace"],
                    pod=metadata["name"],
                    container=container["name"],
                    node=node,
                    pool=_feeds(somnodes.get(node), unit),
                    unit=unit,
                    requested_bytes=count * v1alpha1.UNIT_BYTES[unit],
                    state=states.get(container["name"], kubectl.text(pod, "status", "phase")),
                    created=metadata.get("creationTimestamp") or "",
                )


def requested(container: Mapping[str, Any]) -> dict[v1alpha1.Unit, int]:
    """The units that a container requests."""
    resources = container.get("resources", {})
    asked = {**resources.get("limits", {}), **resources.get("requests", {})}
    found = dict[v1alpha1.Unit, int]()
    for unit in observed.UNITS:
        try:
            count = v1alpha1.parse_bytes(asked.get(v1alpha1.resource_name(unit), 0))
        except ValueError:
            continue  # Anybody may write 100E, and the API server takes it.
        if count:
            found[unit] = count
    return found


def _states(pod: kubectl.Json) -> dict[str, str]:
    """Of each container, what it does or waits for."""
    status, found = pod.get("status", {}), dict[str, str]()
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(field) or ():
            state = container.get("state") or {}
            kind = next(iter(state), "waiting")
            found[container["name"]] = kubectl.text(state, kind, "reason") or kind.capitalize()
    return found


def _feeds(somnode: cluster.SomNode | None, unit: v1alpha1.Unit) -> str:
    if not isinstance(somnode, v1alpha1.SomNode):
        return ""
    reported = (pool.name for pool in somnode.status.pools if pool.unit == unit)
    ordered = (entry.name for entry in somnode.spec.pools if entry.unit == unit)
    return next(reported, next(ordered, ""))


def amount(count_bytes: int) -> str:
    """`64Gi`; zero is `0`."""
    return v1alpha1.format_bytes(count_bytes)


def count(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def pools_table(rows: Sequence[Pool]) -> table.Table:
    """SomPools for people."""
    heads = ("NAME", "UNIT", "CAPACITY", "ALLOCATED", "NODES", "READY-NODES", "READY", "REASON")
    return table.Table(
        (*heads, "MESSAGE"),
        [
            (
                row.name,
                row.unit,
                amount(row.capacity_bytes),
                amount(row.allocated_bytes),
                str(row.nodes),
                str(row.ready_nodes),
                row.ready,
                row.reason,
                row.message if row.ready != "True" else "",
            )
            for row in rows
        ],
        extra=("UNIT", "NODES", "READY-NODES"),
    )


def nodes_table(rows: Sequence[Node]) -> table.Table:
    """Nodes for people."""
    heads = ("NAME", "READY", "POOLS", "CAPACITY", "ALLOCATED", "FREE", "AGENT", "KERNEL")
    return table.Table(
        (*heads, "TROUBLE"),
        [
            (
                row.name,
                str(row.ready),
                ",".join(row.pools),
                amount(row.capacity_bytes),
                amount(row.allocated_bytes),
                amount(row.free_bytes),
                row.agent_version,
                row.kernel,
                f"{row.trouble}: {row.message}".rstrip(": ") if row.trouble else "",
            )
            for row in rows
        ],
        extra=("ALLOCATED", "AGENT", "KERNEL"),
    )


def leases_table(rows: Sequence[Lease], now: datetime.datetime) -> table.Table:
    """Leases for people."""
    heads = ("NAMESPACE", "POD", "CONTAINER", "SIZE", "POOL", "NODE", "AGE", "STATE")
    return table.Table(
        heads,
        [
            (
                row.namespace,
                row.pod,
                row.container,
                amount(row.requested_bytes),
                row.pool,
                row.node,
                age(row.created, now),
                row.state,
            )
            for row in rows
        ],
        extra=("AGE", "POOL", "CONTAINER"),
    )


def age(moment: str, now: datetime.datetime) -> str:
    """As kubectl's AGE: `5m`, `3d`; "" where it is unknown."""
    try:
        seconds = int((now - datetime.datetime.fromisoformat(moment)).total_seconds())
    except ValueError:
        return ""
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{max(0, seconds)}s"
