"""The JSON of the fleet API, made from SomPools, SomNodes and what agents tell. Pure.

Bytes are numbers, in fields that say so. What these objects show is in `kubectl get -o yaml` of
the same kind, a node's readiness aside.
"""

from typing import Annotated, Final, Literal

import pydantic

from som_api import leases, v1alpha1
from som_api.v1alpha1 import meta
from som_api.web import fleet

Status = Literal["True", "False", "Unknown"]

_NOT_REPORTED: Final = v1alpha1.Condition(
    type="Ready", status="Unknown", reason="NotReported", message="the agent has not reported yet"
)
_POOL_UNKNOWN: Final = v1alpha1.Condition(
    type="Ready", status="Unknown", reason="NotObserved", message="the operator has not got to it"
)


class View(meta.ApiModel):
    """A value of the JSON, whose fields are all there."""

    model_config = pydantic.ConfigDict(json_schema_serialization_defaults_required=True)


class PoolView(View):
    """A SomPool: what was asked for, and what all nodes together have."""

    name: Annotated[str, pydantic.Field(examples=["databases"])]
    unit: Annotated[v1alpha1.Unit, pydantic.Field(description="What one som.io/<unit> is")]
    source: Annotated[
        v1alpha1.SourceKind, pydantic.Field(description="Where the memory comes from")
    ]
    driver: Annotated[
        v1alpha1.DriverType, pydantic.Field(description="What stands behind /dev/som")
    ]
    paused: Annotated[bool, pydantic.Field(description="Nothing of it is changed anywhere")]
    deleting: Annotated[bool, pydantic.Field(description="It gives its memory back, and goes")]
    node_capacity_bytes: Annotated[
        int, pydantic.Field(description="What each node is to have", examples=[68719476736])
    ]
    capacity_bytes: Annotated[int, pydantic.Field(description="Reserved on all nodes")]
    allocated_bytes: Annotated[int, pydantic.Field(description="What containers hold of it")]
    nodes: Annotated[v1alpha1.NodeCounts, pydantic.Field(description="Its nodes by state")]
    ready: Annotated[Status, pydantic.Field(description="Status of its condition Ready")]
    reason: Annotated[str, pydantic.Field(description="Why, in one word")]
    message: Annotated[str, pydantic.Field(description="Why, in sentences, with the cure")]
    conditions: tuple[v1alpha1.Condition, ...]


class NumaView(View):
    """What one NUMA node gives to a pool."""

    node: int
    capacity_bytes: int


class NodePoolView(View):
    """One pool on one node."""

    name: Annotated[str, pydantic.Field(examples=["databases"])]
    unit: v1alpha1.Unit
    driver: v1alpha1.DriverType
    ordered_bytes: Annotated[
        int, pydantic.Field(description="What it is to have here; 0: it leaves the node")
    ]
    capacity_bytes: Annotated[int, pydantic.Field(description="What it has")]
    allocated_bytes: Annotated[int, pydantic.Field(description="What containers hold of it")]
    free_bytes: Annotated[int, pydantic.Field(description="What a container can have now")]
    whole_free_bytes: Annotated[
        int | None,
        pydantic.Field(
            description="What of that is in whole GiB, for 1 GiB pages; null: the driver has none "
            "beside smaller ones"
        ),
    ]
    numa: tuple[NumaView, ...]
    ready: Status
    reason: str
    message: str


class HugePagesView(View):
    """Huge pages of one size on a node, whoever has them, and those of som's pools."""

    page_size: v1alpha1.PageSize
    total_bytes: int
    pools_bytes: int


class NodeView(View):
    """A node that is, or was, in a pool."""

    name: Annotated[str, pydantic.Field(examples=["node-0042"])]
    ready: Annotated[
        bool, pydantic.Field(description="Kubelet, agent and every pool here are ready")
    ]
    reason: Annotated[str, pydantic.Field(description="The first thing that is not, in one word")]
    message: Annotated[str, pydantic.Field(description="The same in sentences")]
    kubelet_ready: bool
    agent_ready: bool
    boot_id: Annotated[str, pydantic.Field(alias="bootID")]
    kernel_version: str
    agent_version: str
    module: Annotated[
        v1alpha1.Module | None, pydantic.Field(description="som.ko as loaded; null: it is not")
    ]
    memory_bytes: Annotated[int, pydantic.Field(description="MemTotal of the node")]
    capacity_bytes: int
    allocated_bytes: int
    free_bytes: int
    pools: tuple[NodePoolView, ...]
    huge_pages: tuple[HugePagesView, ...]
    conditions: tuple[v1alpha1.Condition, ...]


class LeaseView(leases.Lease):
    """A lease, and the node that it is on."""

    node: Annotated[str, pydantic.Field(examples=["node-0042"])]


class EventView(View):
    """An Event of som."""

    id: Annotated[str, pydantic.Field(description="Name of the Event in namespace default")]
    kind: Annotated[str, pydantic.Field(description="Node, SomNode or SomPool")]
    name: Annotated[str, pydantic.Field(description="Of the object that it is about")]
    type: Annotated[str, pydantic.Field(description="Normal or Warning")]
    reason: str
    message: str
    component: Annotated[str, pydantic.Field(description="som-operator or som-agent")]
    count: int
    first: str
    last: str


class Incomplete(View):
    """A node whose leases are not in the answer."""

    node: Annotated[str, pydantic.Field(examples=["node-0007"])]
    reason: Annotated[str, pydantic.Field(examples=["the agent did not answer within 3 s"])]


def pool(sompool: v1alpha1.SomPool) -> PoolView:
    """The view of a SomPool."""
    spec, status = sompool.spec, sompool.status
    ready = _ready(status.conditions) or _POOL_UNKNOWN
    return PoolView(
        name=sompool.metadata.name,
        unit=spec.unit,
        source=spec.source.kind,
        driver=spec.driver_type,
        paused=spec.paused,
        deleting=sompool.metadata.deletion_timestamp is not None,
        node_capacity_bytes=spec.capacity,
        capacity_bytes=status.capacity,
        allocated_bytes=status.allocated,
        nodes=status.nodes,
        ready=ready.status,
        reason=ready.reason,
        message=ready.message,
        conditions=status.conditions,
    )


def node(found: fleet.Node) -> NodeView:
    """The view of a node."""
    status = found.somnode.status
    pools = _pools(found.somnode)
    reason, message = _trouble(found, pools)
    return NodeView(
        name=found.somnode.metadata.name,
        ready=not reason,
        reason=reason,
        message=message,
        kubelet_ready=found.kubelet_ready,
        agent_ready=found.agent_ready,
        boot_id=status.boot_id,
        kernel_version=status.kernel_version,
        agent_version=status.agent_version,
        module=status.module,
        memory_bytes=status.memory,
        capacity_bytes=sum(pool.capacity_bytes for pool in pools),
        allocated_bytes=sum(pool.allocated_bytes for pool in pools),
        free_bytes=sum(pool.free_bytes for pool in pools),
        pools=pools,
        huge_pages=tuple(
            HugePagesView(page_size=each.page_size, total_bytes=each.total, pools_bytes=each.pools)
            for each in status.huge_pages
        ),
        conditions=status.conditions,
    )


def lease(of_agent: leases.Lease, *, node: str) -> LeaseView:
    """The view of a lease on `node`."""
    return LeaseView.model_construct(**dict(of_agent), node=node)


def event(found: fleet.Event) -> EventView:
    """The view of an Event."""
    return EventView(
        id=found.id,
        kind=found.kind,
        name=found.name,
        type=found.type,
        reason=found.reason,
        message=found.message,
        component=found.component,
        count=found.count,
        first=found.first,
        last=found.last,
    )


def _ready(conditions: tuple[v1alpha1.Condition, ...]) -> v1alpha1.Condition | None:
    return next((each for each in conditions if each.type == "Ready"), None)


def _pools(somnode: v1alpha1.SomNode) -> tuple[NodePoolView, ...]:
    """Those that are ordered and those that are there."""
    ordered = {entry.name: entry for entry in somnode.spec.pools}
    reported = {status.name: status for status in somnode.status.pools}
    return tuple(
        _node_pool(name, ordered.get(name), reported.get(name))
        for name in sorted(ordered.keys() | reported.keys())
    )


def _node_pool(
    name: str, entry: v1alpha1.NodePool | None, status: v1alpha1.PoolStatus | None
) -> NodePoolView:
    shape = status or entry
    assert shape is not None
    ready = (_ready(status.conditions) if status else None) or _NOT_REPORTED
    return NodePoolView(
        name=name,
        unit=shape.unit,
        driver=shape.driver,
        ordered_bytes=entry.capacity if entry else 0,
        capacity_bytes=status.capacity if status else 0,
        allocated_bytes=status.allocated if status else 0,
        free_bytes=status.free if status else 0,
        whole_free_bytes=status.whole_free if status else None,
        numa=tuple(
            NumaView(node=share.node, capacity_bytes=share.capacity)
            for share in (status.numa if status else ())
        ),
        ready=ready.status,
        reason=ready.reason,
        message=ready.message,
    )


def _trouble(found: fleet.Node, pools: tuple[NodePoolView, ...]) -> tuple[str, str]:
    """(reason, message) of the first thing that is not ready; of each "" where all is."""
    if not found.kubelet_ready:
        return "KubeletNotReady", "kubelet is not ready; nothing of this node can be used or heard"
    if not found.agent_ready:
        return "AgentNotReady", "the agent is not ready; no container with som memory can start"
    for each in found.somnode.status.conditions:
        if each.type in ("Blocked", "Degraded") and each.status == "True":
            return each.reason, each.message
    for pool in pools:
        if pool.ready != "True":
            return pool.reason, f"pool {pool.name}: {pool.message}"
    return "", ""
