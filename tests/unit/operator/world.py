"""A fleet in memory: facts for the plan, and what operator, agents and admins do to them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from som_api import v1alpha1
from som_api.plan import observed, plan, pool_status, standing, tally
from som_api.plan.reports import PoolOnNode, State
from som_api.v1alpha1 import sompool

GIB = 2**30
SOURCE = v1alpha1.Source(huge_tlb=v1alpha1.HugeTLB(page_size="2Mi"))
CARVED = v1alpha1.Source(carved=v1alpha1.Carved())
BOOT = "boot-1"


def pool(
    name: str = "a",
    *,
    unit: v1alpha1.Unit = "2Mi",
    capacity_bytes: int = GIB,
    labels: Mapping[str, str] | None = None,
    everywhere: bool = False,
    paused: bool = False,
    deleted: bool = False,
    finalizers: tuple[str, ...] = (standing.FINALIZER,),
    generation: int = 1,
    source: v1alpha1.Source = SOURCE,
    driver: v1alpha1.Driver | None = None,
) -> v1alpha1.SomPool:
    """A SomPool of all nodes; with `labels` of some, `everywhere` of those that run the agent."""
    selector = v1alpha1.LabelSelector(match_labels=dict(labels or {}))
    return v1alpha1.SomPool(
        metadata=sompool.SomPoolMeta(
            name=name,
            uid=f"uid-{name}",
            generation=generation,
            finalizers=finalizers,
            deletion_timestamp="2026-11-24T12:00:00Z" if deleted else None,
        ),
        spec=v1alpha1.SomPoolSpec(
            node_selector=None if everywhere else selector,
            paused=paused,
            unit=unit,
            capacity=capacity_bytes,
            source=source,
            driver=driver,
        ),
    )


def node(name: str = "n", **fields: Any) -> observed.Node:
    """A Node whose kubelet is ready, in its first boot, without som capacity."""
    facts: dict[str, Any] = {"uid": f"uid-{name}", "boot_id": BOOT, "ready": True}
    facts |= {
        "labels": {},
        "units": {},
        "memory_bytes": 0,
        "huge_pages": {},
        "runtime": "containerd://2.1.4",
    }
    return observed.Node(name=name, **(facts | fields))


def pool_report(
    entry: v1alpha1.NodePool, *, capacity_bytes: int | None = None, allocated_bytes: int = 0
) -> v1alpha1.PoolStatus:
    capacity = entry.capacity if capacity_bytes is None else capacity_bytes
    return v1alpha1.PoolStatus(
        name=entry.name,
        generation=entry.generation,
        unit=entry.unit,
        capacity=capacity,
        allocated=allocated_bytes,
        free=max(0, capacity - allocated_bytes),
    )


def short_report(
    entry: v1alpha1.NodePool, message: str, *, capacity_bytes: int, reason: str = "PartlyReserved"
) -> v1alpha1.PoolStatus:
    """The agent has done what it could; `message` is its excuse."""
    ready = v1alpha1.Condition(type="Ready", status="False", reason=reason, message=message)
    report = pool_report(entry, capacity_bytes=capacity_bytes)
    return report.model_copy(update={"conditions": (ready,)})


@dataclasses.dataclass
class World:
    """The facts by name; `bound` holds units of Pods per node."""

    sompools: dict[str, v1alpha1.SomPool] = dataclasses.field(default_factory=dict)
    nodes: dict[str, observed.Node] = dataclasses.field(default_factory=dict)
    somnodes: dict[str, v1alpha1.SomNode] = dataclasses.field(default_factory=dict)
    bound: dict[str, observed.BoundPods] = dataclasses.field(default_factory=dict)
    gone: set[str] = dataclasses.field(default_factory=set)
    lost_agents: set[str] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, *things: v1alpha1.SomPool | observed.Node) -> "World":
        world = cls()
        for thing in things:
            world.put(thing)
        return world

    def put(self, thing: v1alpha1.SomPool | observed.Node) -> None:
        if isinstance(thing, observed.Node):
            self.nodes[thing.name] = thing
        else:
            self.sompools[thing.metadata.name] = thing

    def bind(self, name: str = "n", *, agent: bool = False, **units: int) -> None:
        """Pods on a node: `bind("n", u2Mi=4)`."""
        counts = {unit: units[f"u{unit}"] for unit in observed.UNITS if f"u{unit}" in units}
        self.bound[name] = observed.BoundPods(units=counts, runs_agent=agent)

    @property
    def pools(self) -> standing.Pools:
        return standing.Pools(self.sompools.values(), gone=self.gone)

    def plans(self) -> dict[str, plan.NodePlan]:
        pools, nobody = self.pools, observed.bound(())
        return {
            name: plan.plan_node(
                pools,
                node,
                self.somnodes.get(name),
                self.bound.get(name, nobody),
                agent_lost="no agent" if name in self.lost_agents else "",
            )
            for name, node in self.nodes.items()
        }

    def plan(self, name: str = "n") -> plan.NodePlan:
        return self.plans()[name]

    def operate(self) -> None:
        """Carry out the plan, as the operator does."""
        for name, planned in self.plans().items():
            self.nodes[name] = dataclasses.replace(self.nodes[name], units=planned.units)
            self.order(name, planned.entries)

    def order(self, name: str, entries: tuple[v1alpha1.NodePool, ...]) -> None:
        new = v1alpha1.SomNode(metadata=v1alpha1.ObjectMeta(name=name, generation=0))
        old = self.somnodes.get(name, new)
        if old.spec.pools != entries:
            metadata = old.metadata.model_copy(update={"generation": old.metadata.generation + 1})
            spec = v1alpha1.SomNodeSpec(pools=entries)
            self.somnodes[name] = old.model_copy(update={"spec": spec, "metadata": metadata})

    def report(self, name: str = "n", *reports: v1alpha1.PoolStatus) -> None:
        """The agent reports, in the node's present boot, on the present orders."""
        somnode = self.somnodes[name]
        generation, boot_id = somnode.metadata.generation, self.nodes[name].boot_id
        status = v1alpha1.SomNodeStatus(
            observed_generation=generation, boot_id=boot_id, pools=reports
        )
        self.somnodes[name] = somnode.model_copy(update={"status": status})

    def tell(self, name: str, condition: v1alpha1.Condition) -> None:
        """The operator writes a condition into a SomNode."""
        somnode = self.somnodes[name]
        status = somnode.status.model_copy(update={"conditions": (condition,)})
        self.somnodes[name] = somnode.model_copy(update={"status": status})

    def annotate(self, name: str, key: str, value: str) -> None:
        """An admin annotates a SomNode."""
        somnode = self.somnodes[name]
        metadata = somnode.metadata.model_copy(update={"annotations": {key: value}})
        self.somnodes[name] = somnode.model_copy(update={"metadata": metadata})

    def obey(self, name: str = "n", *, allocated_bytes: int = 0) -> None:
        """The agent does all that is ordered, and says so."""
        entries = self.somnodes[name].spec.pools
        self.report(name, *(pool_report(e, allocated_bytes=allocated_bytes) for e in entries))

    def settle(self) -> None:
        """Operator and agents act until nothing changes any more."""
        for _ in range(4):
            self.operate()
            for name in self.somnodes.keys() & self.nodes.keys():
                self.obey(name)

    def on_nodes(self, name: str) -> dict[str, PoolOnNode]:
        plans = self.plans()
        return {n: p.on_node[name] for n, p in sorted(plans.items()) if name in p.on_node}

    def state(self, name: str = "a", *, on: str = "n") -> State:
        return self.on_nodes(name)[on].state

    def status(self, name: str = "a") -> v1alpha1.SomPoolStatus:
        return pool_status.pool_status(self.pools.by_name[name], tally.Tally(self.on_nodes(name)))

    def condition(self, kind: str, *, of: str = "a") -> tuple[str, str, str]:
        (found,) = (each for each in self.status(of).conditions if each.type == kind)
        return found.status, found.reason, found.message

    def holders(self, name: str = "a") -> list[str]:
        return pool_status.holders(
            name, nodes=self.nodes, somnodes=self.somnodes, lost_agents=self.lost_agents
        )


def entries(world: World, name: str = "n") -> list[str]:
    """Names of the pools that a node is ordered to have."""
    return [entry.name for entry in world.plan(name).entries]
