"""What the cluster says, read by kubectl and decoded."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import pydantic

from som_api import v1alpha1
from som_api.plan import observed
from som_kubectl import kubectl

T = TypeVar("T")
SOMPOOLS: Final = "apis/som.io/v1alpha1/sompools"
SOMNODES: Final = "apis/som.io/v1alpha1/somnodes"
NODES: Final = "api/v1/nodes"
PODS: Final = "api/v1/pods"
DEPLOYMENTS: Final = "apis/apps/v1/deployments"
DAEMONSETS: Final = "apis/apps/v1/daemonsets"
USUAL_NAMESPACE: Final = "som-system"
OPERATOR: Final = "app.kubernetes.io/name=som,app.kubernetes.io/component=operator"
AGENT: Final = ",".join(f"{key}={value}" for key, value in observed.AGENT_LABELS.items())

SomNode = v1alpha1.SomNode | observed.UnreadableSomNode


@dataclasses.dataclass(frozen=True)
class Fleet:
    """SomPools, SomNodes and Nodes by name; which nodes run an agent, and its readiness.

    `unreadable_pools` are SomPools that this version cannot read, with what is wrong.
    """

    pools: Mapping[str, v1alpha1.SomPool]
    unreadable_pools: Mapping[str, str]
    somnodes: Mapping[str, SomNode]
    nodes: Mapping[str, observed.Node]
    agents: Mapping[str, bool]

    def bound(self, node: str) -> observed.BoundPods:
        """What the plan needs to know of a node's Pods; not what they hold."""
        runs, ready = node in self.agents, self.agents.get(node, False)
        return observed.BoundPods(units={}, runs_agent=runs, agent_ready=ready)

    def somnode(self, node: str) -> v1alpha1.SomNode | None:
        """The node's SomNode, where there is one that can be read."""
        found = self.somnodes.get(node)
        return found if isinstance(found, v1alpha1.SomNode) else None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What kubectl, the `program`, reaches; `installed_in` is som's namespace if it was said."""

    program: kubectl.Kubectl
    installed_in: str = ""

    def fleet(self) -> Fleet:
        """All that a plan needs."""
        pools, somnodes, nodes, agents = together(
            self.pools, self.somnodes, self.nodes, self.agent_pods
        )
        return Fleet(
            pools={pool.metadata.name: pool for pool in pools[0]},
            unreadable_pools=pools[1],
            somnodes=somnodes,
            nodes=nodes,
            agents=agents,
        )

    def pools(self) -> tuple[list[v1alpha1.SomPool], dict[str, str]]:
        """The SomPools, and those that cannot be read."""
        found, unreadable = list[v1alpha1.SomPool](), dict[str, str]()
        for item in kubectl.items(self.program, SOMPOOLS):
            try:
                found.append(v1alpha1.SomPool.model_validate(item))
            except pydantic.ValidationError as error:
                unreadable[item["metadata"]["name"]] = first_fault(error)
        return found, unreadable

    def somnodes(self) -> dict[str, SomNode]:
        """The SomNodes by name."""
        found = kubectl.items(self.program, SOMNODES)
        return {item["metadata"]["name"]: decode_somnode(item) for item in found}

    def nodes(self) -> dict[str, observed.Node]:
        """The Nodes by name."""
        found = map(observed.decode_node, kubectl.items(self.program, NODES))
        return {node.name: node for node in found}

    def agent_pods(self) -> dict[str, bool]:
        """By node, whether its agent is ready; a node without an agent is absent."""
        where, agents = self.namespace(), dict[str, bool]()
        collection = kubectl.path("api/v1/namespaces", where, "pods").lstrip("/")
        for item in kubectl.items(self.program, collection, labelSelector=AGENT):
            pod = observed.decode_pod(item, agent_namespace=where)
            if pod is not None and pod.is_agent:
                agents[pod.node] = agents.get(pod.node, False) or pod.agent_ready
        return agents

    def namespace(self) -> str:
        """Where som is installed; the usual place where nothing tells."""
        if self.installed_in:
            return self.installed_in
        operator = self.operator()
        return kubectl.text(operator or {}, "metadata", "namespace") or USUAL_NAMESPACE

    def own_namespace(self) -> str:
        """The namespace of the context, where `kubectl get pods` would look."""
        words = ("config", "view", "--minify", "--output=jsonpath={..namespace}")
        return self.program.run(*words).decode().strip() or "default"

    def operator(self) -> kubectl.Json | None:
        """The operator's Deployment; None where there is none, or none may be seen."""
        return self._first(DEPLOYMENTS, "deployments", OPERATOR)

    def agents(self) -> kubectl.Json | None:
        """The agents' DaemonSet; None where there is none, or none may be seen."""
        return self._first(DAEMONSETS, "daemonsets", AGENT)

    def _first(self, everywhere: str, plural: str, labels: str) -> kubectl.Json | None:
        collection = everywhere
        if self.installed_in:
            collection = f"apis/apps/v1/namespaces/{self.installed_in}/{plural}"
        try:
            found = kubectl.items(self.program, collection, labelSelector=labels)
            return next(iter(found), None)
        except kubectl.Refused as error:
            if error.reason != "Forbidden":
                raise
        if self.installed_in:
            return None
        usual = dataclasses.replace(self, installed_in=USUAL_NAMESPACE)
        return usual._first(everywhere, plural, labels)


def together(*questions: Callable[[], Any]) -> list[Any]:
    """The answers, asked for at once; the first that fails is raised."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as threads:
        return [asked.result() for asked in [threads.submit(each) for each in questions]]


def decode_somnode(item: kubectl.Json) -> SomNode:
    """The SomNode of an object; what cannot be read holds the pools that it names all the same."""
    try:
        return v1alpha1.SomNode.model_validate(item)
    except pydantic.ValidationError as error:
        parts = (item.get("spec", {}), item.get("status", {}))
        named = frozenset(entry["name"] for part in parts for entry in part.get("pools", ()))
        return observed.UnreadableSomNode(named, first_fault(error))


def first_fault(error: pydantic.ValidationError) -> str:
    """What is wrong first, in few words."""
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(step) for step in detail['loc'])}: {detail['msg']}"


def condition(conditions: Iterable[v1alpha1.Condition], kind: str) -> v1alpha1.Condition | None:
    """One condition of an object."""
    return next((each for each in conditions if each.type == kind), None)
