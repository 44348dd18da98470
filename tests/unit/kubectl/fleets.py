"""Clusters for the tests of `kubectl som`, in a fake kubectl."""

import copy
from typing import Any

from fakes.kubectl import FakeKubectl
from som_api.plan import observed

SOM = "apis/som.io/v1alpha1"
GIB = 2**30
Json = dict[str, Any]


def pool(
    name: str, capacity: str = "64Gi", *, labels: dict[str, str] | None = None, **spec: Any
) -> Json:
    """A SomPool that the operator has seen."""
    selector = {} if labels is None else {"nodeSelector": {"matchLabels": labels}}
    return {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomPool",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "generation": 1,
            "finalizers": ["som.io/release"],
        },
        "spec": {
            "unit": "2Mi",
            "capacity": capacity,
            "source": {"hugeTLB": {"pageSize": "2Mi"}},
            **selector,
            **spec,
        },
    }


def manifest(item: Json, **spec: Any) -> Json:
    """What an admin would write to get this pool, with changes."""
    changed = copy.deepcopy(item)
    changed["metadata"] = {"name": item["metadata"]["name"]}
    changed.pop("status", None)
    changed["spec"] |= spec
    return changed


def condition(kind: str, status: str, reason: str, message: str = "") -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message}


class Fleet:
    """Nodes and pools that stand as the operator has ordered them."""

    def __init__(self) -> None:
        self.kubectl = FakeKubectl()
        labels = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "operator"}
        metadata = {"name": "som-operator", "namespace": "som-system", "labels": labels}
        ready = {"readyReplicas": 1}
        operator = {"metadata": metadata, "spec": {"replicas": 1}, "status": ready}
        self.kubectl.put("apis/apps/v1", "deployments", operator)
        agents = {
            "metadata": {**metadata, "name": "som-agent", "labels": dict(observed.AGENT_LABELS)},
            "status": {"numberReady": 3, "desiredNumberScheduled": 3},
        }
        self.kubectl.put("apis/apps/v1", "daemonsets", agents)

    def pool(self, item: Json, *conditions: Json, **status: Any) -> Json:
        """A pool with its status."""
        item = {**item, "status": {"conditions": [*conditions], **status}}
        self.kubectl.put(SOM, "sompools", item)
        return item

    def node(
        self,
        name: str,
        *pools: Json,
        labels: dict[str, str] | None = None,
        allocated: str = "0",
        ready: bool = True,
        conditions: tuple[Json, ...] = (condition("Ready", "True", "AsOrdered"),),
        agent: bool = True,
    ) -> None:
        """A Node with its agent, whose SomNode has these pools."""
        status = {
            "nodeInfo": {"bootID": "b1", "containerRuntimeVersion": "containerd://2.1.0"},
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "capacity": {"memory": "1Ti"},
        }
        metadata = {"name": name, "uid": f"uid-{name}", "labels": labels or {}}
        self.kubectl.put("api/v1", "nodes", {"metadata": metadata, "status": status})
        if agent:
            self.agent(name)
        if pools:
            self.somnode(name, *pools, allocated=allocated, conditions=conditions)

    def somnode(
        self, name: str, *pools: Json, allocated: str, conditions: tuple[Json, ...] = ()
    ) -> None:
        """What is ordered, and reported in full."""
        entries = [
            {
                "name": item["metadata"]["name"],
                "generation": item["metadata"]["generation"],
                **{key: item["spec"][key] for key in ("unit", "capacity", "source")},
            }
            for item in pools
        ]
        reports = [
            {
                **{key: entry[key] for key in ("name", "generation", "unit", "capacity")},
                "allocated": allocated,
                "free": entry["capacity"],
            }
            for entry in entries
        ]
        status = {
            "observedGeneration": 1,
            "bootID": "b1",
            "agentVersion": "0.1.0",
            "kernelVersion": "6.12.0",
            "pools": reports,
            "conditions": [*conditions],
        }
        metadata = {"name": name, "uid": f"som-{name}", "generation": 1}
        somnode = {"metadata": metadata, "spec": {"pools": entries}, "status": status}
        self.kubectl.put(SOM, "somnodes", somnode)

    def agent(self, node: str) -> None:
        """The agent's Pod, ready."""
        labels = dict(observed.AGENT_LABELS)
        metadata = {"name": f"som-agent-{node}", "namespace": "som-system", "labels": labels}
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        spec = {"nodeName": node, "containers": [{"name": "agent"}]}
        self.kubectl.put("api/v1", "pods", {"metadata": metadata, "spec": spec, "status": status})

    def pod(
        self,
        name: str,
        *,
        node: str = "",
        units: int = 512,
        namespace: str = "default",
        ticket: bool = True,
        **status: Any,
    ) -> Json:
        """A Pod that requests som memory."""
        limits = {"som.io/2Mi": str(units), **({"som.io/ticket": "1"} if ticket else {})}
        container = {"name": "main", "image": "program", "resources": {"limits": limits}}
        metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
        item = {
            "metadata": {**metadata, "creationTimestamp": "2026-11-28T12:00:00Z"},
            "spec": {"nodeName": node, "containers": [container]},
            "status": {"phase": "Running" if node else "Pending", **status},
        }
        self.kubectl.put("api/v1", "pods", item)
        return item
