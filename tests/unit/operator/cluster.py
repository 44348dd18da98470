"""A small cluster on the fake API server: the operator runs, tests play admins and agents."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

from prometheus_client import registry

from fakes.api_server import FakeApiServer, Request
from fakes.clock import FakeClock
from fakes.object_store import Place
from som_api import kube
from som_api.plan.observed import AGENT_LABELS
from som_operator.controllers import Controllers
from som_operator.loading.driver import Driver
from waiting import until

NAMESPACE = "som-system"
SOM = "som.io/v1alpha1"
SOMPOOL_PATH = "/apis/som.io/v1alpha1/sompools/"
SOMNODE_PATH = "/apis/som.io/v1alpha1/somnodes"
BIG = {"size": "big"}
STILL_TURNS = 50


class Cluster:
    """The fake server, and what happens in it besides the operator."""

    def __init__(self, server: FakeApiServer, clock: FakeClock) -> None:
        self.server = server
        self.clock = clock
        self.registry = registry.CollectorRegistry()
        self.driver_pod: kube.Json | None = None
        self.leading: asyncio.Task[None]

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[Controllers]:
        """The operator works inside the block."""
        async with self.server.client() as client:
            clock, self.registry = self.clock, registry.CollectorRegistry()
            recorder = kube.Recorder(client, component="som-operator", instance="i", time=clock)
            controllers = Controllers(
                client,
                recorder,
                agent_namespace=NAMESPACE,
                collected=self.registry,
                driver=Driver(client, self.driver_pod, clock) if self.driver_pod else None,
                time=clock,
            )
            async with asyncio.TaskGroup() as tasks:
                self.leading = tasks.create_task(controllers.run())
                works = (recorder.run(), controllers.fleet.run())
                running = [self.leading, *(tasks.create_task(work) for work in works)]
                yield controllers
                for task in running:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[Controllers]:
        """Node `n` has all of pool `a`, and the operator works inside the block."""
        self.node()
        self.pool()
        async with self.operator() as controllers:
            await self.ready()
            yield controllers

    def pool(
        self,
        name: str = "a",
        *,
        capacity: str = "1Gi",
        labels: dict[str, str] | None = BIG,
        finalizers: Sequence[str] = (),
        **spec: Any,
    ) -> None:
        """Apply a SomPool, as an admin does; metadata and status stay."""
        metadata = {"name": name, "finalizers": [*finalizers]}
        old = self.get(SOM, "sompools", name) or {"metadata": metadata}
        selector = {} if labels is None else {"nodeSelector": {"matchLabels": labels}}
        source = {"hugeTLB": {"pageSize": "2Mi"}}
        new = {"unit": "2Mi", "capacity": capacity, "source": source, **selector, **spec}
        self.server.put(SOM, "sompools", {**old, "spec": new})

    def finalizers(self, pool: str = "a") -> list[str]:
        names: list[str] = self.expect(SOM, "sompools", pool)["metadata"]["finalizers"]
        return names

    def delete_pool(self, name: str = "a") -> None:
        """Delete a SomPool that finalizers hold."""
        with self.edited(SOM, "sompools", name) as pool:
            pool["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"

    def node(
        self,
        name: str = "n",
        *,
        labels: dict[str, str] = BIG,
        boot_id: str = "b1",
        agent: bool = True,
    ) -> None:
        """A Node registers itself; its agent is ready."""
        status = {
            "capacity": {"cpu": "2", "hugepages-2Mi": "0"},
            "nodeInfo": {"bootID": boot_id},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        metadata = {"name": name, "labels": labels}
        self.server.put("v1", "nodes", {"metadata": metadata, "status": status})
        if agent:
            self.pod(f"agent-{name}", node=name, is_agent=True)

    def runs_containers_by(self, runtime: str, *, node: str = "n") -> None:
        """kubelet says which container runtime it has, as `containerd://2.0.0`."""
        with self.edited("v1", "nodes", node) as found:
            found["status"]["nodeInfo"]["containerRuntimeVersion"] = runtime

    def pod(self, name: str, *, node: str = "n", units: int = 0, is_agent: bool = False) -> None:
        """A Pod is bound to a node, and ready."""
        requests = {"som.io/2Mi": str(units)} if units else {}
        labels = dict(AGENT_LABELS) if is_agent else {}
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        spec = {"nodeName": node, "containers": [{"resources": {"requests": requests}}]}
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.server.put("v1", "pods", {"metadata": metadata, "spec": spec, "status": status})

    def report(
        self, name: str = "n", *, pools: Sequence[str] | None = None, module: str = ""
    ) -> None:
        """The agent has done what it was ordered; with `pools`, it has these, and others not.

        `module` is the version of som.ko that the kernel has.
        """
        somnode = self.expect(SOM, "somnodes", name)
        node = self.expect("v1", "nodes", name)
        ordered = {entry["name"]: entry["capacity"] for entry in somnode["spec"]["pools"]}
        facts = {"generation": 1, "unit": "2Mi", "allocated": "0", "free": "0"}
        kept = [
            {**facts, "name": pool, "capacity": ordered.get(pool, "1Gi")}
            for pool in (ordered if pools is None else pools)
        ]
        somnode["status"] = {
            "observedGeneration": somnode["metadata"]["generation"],
            "bootID": node["status"]["nodeInfo"]["bootID"],
            "pools": kept,
            **({"module": {"version": module, "srcVersion": "NEW"}} if module else {}),
            "hugePages": [{"pageSize": "2Mi", "total": "1Gi", "pools": "1Gi"}] if kept else [],
            "conditions": somnode.get("status", {}).get("conditions", []),
        }
        self.server.put(SOM, "somnodes", somnode)

    def books(self, node: str = "n") -> tuple[str, str]:
        """Status and reason of a SomNode's condition BooksPending."""
        return self.node_condition("BooksPending", node)

    def node_condition(self, kind: str, node: str = "n") -> tuple[str, str]:
        """Status and reason of a SomNode's condition."""
        return _condition(self.get(SOM, "somnodes", node), kind)[:2]

    def get(self, api_version: str, plural: str, name: str) -> kube.Json | None:
        return self.server.store.get(Place(api_version, plural, "", name))

    def expect(self, api_version: str, plural: str, name: str) -> kube.Json:
        found = self.get(api_version, plural, name)
        assert found is not None, f"no {plural} {name}"
        return found

    @contextlib.contextmanager
    def edited(self, api_version: str, plural: str, name: str) -> Iterator[kube.Json]:
        """Somebody makes of an object what the block makes of it."""
        item = self.expect(api_version, plural, name)
        yield item
        self.server.put(api_version, plural, item)

    def capacity(self, name: str = "n") -> str | None:
        node = self.expect("v1", "nodes", name)
        return cast(str | None, node["status"]["capacity"].get("som.io/2Mi"))

    def ordered(self, name: str = "n") -> list[str]:
        """Names of the pools in a SomNode's spec."""
        somnode = self.get(SOM, "somnodes", name)
        return [entry["name"] for entry in somnode["spec"]["pools"]] if somnode else []

    def condition(self, kind: str = "Ready", *, of: str = "a") -> tuple[str, str]:
        """Status and reason of a SomPool's condition."""
        return _condition(self.get(SOM, "sompools", of), kind)[:2]

    def events(self, name: str, kinds: Sequence[str] = ("Normal", "Warning")) -> list[str]:
        """Reasons of the Events on an object, in the order in which they came."""
        return [
            request.body["reason"]
            for request in self.server.requests
            if request.verb == "create"
            and request.path.endswith("/events")
            and request.body["involvedObject"]["name"] == name
            and request.body["type"] in kinds
        ]

    def message(self, kind: str = "Ready", *, of: str = "a") -> str:
        """What a SomPool's condition says."""
        return _condition(self.expect(SOM, "sompools", of), kind)[2]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def writes(self) -> list[Request]:
        """All requests that change something, Events excepted."""
        return [
            request
            for request in self.server.requests
            if request.verb not in ("get", "list", "watch") and "/events" not in request.path
        ]

    async def first_ordered(self, nodes: Sequence[str]) -> str:
        """Wait until one of `nodes` has orders; return it."""
        await until(lambda: any(self.ordered(name) for name in nodes))
        return next(name for name in nodes if self.ordered(name))

    async def ready(self, *, nodes: Sequence[str] = ("n",), pool: str = "a") -> None:
        """Wait for orders, play the agents, and wait until the pool is Ready."""
        for name in nodes:
            await self.first_ordered([name])
            self.report(name)
        await until(lambda: self.condition(of=pool) == ("True", "Reserved"))

    async def quiet(self) -> None:
        """Wait until the operator has had its say about everything.

        Server and operator share this loop: where both stand still, so many turns bring nothing.
        """
        count, turns = -1, 0
        while turns < STILL_TURNS:
            turns = turns + 1 if count == len(self.server.requests) else 0
            count = len(self.server.requests)
            await asyncio.sleep(0.001)


def _condition(item: kube.Json | None, kind: str) -> tuple[str, str, str]:
    """Status, reason and message of an object's condition; of each "" where it has none."""
    conditions = (item or {}).get("status", {}).get("conditions", ())
    found = ((c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == kind)
    return next(found, ("", "", ""))
