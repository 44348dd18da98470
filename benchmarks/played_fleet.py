"""The fleet of `fleet.py`: Nodes and agents' Pods in etcd, and what kubelets and agents write."""

import asyncio
import base64
import contextlib
import datetime
import itertools
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import aiohttp

from som_api import kube

NAMESPACE = "som-system"
POOL = "fleet"
KUBELET_EVERY_S = 300.0
SPEC = {
    "nodeSelector": {"matchLabels": {"fleet": "yes"}},
    "unit": "2Mi",
    "capacity": "64Gi",
    "source": {"hugeTLB": {"pageSize": "2Mi"}},
}
OFFERED = {"som.io/2Mi": "32768"}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# What is in etcd before the operator starts.


def node(number: int) -> dict[str, Any]:
    """A Node of the size that clouds make them, about 9 kB."""
    name = f"node-{number:05d}"
    labels = {f"label-{i}.example.com/some-name": f"value-{i}" for i in range(10)}
    amounts = {"cpu": "64", "memory": "527891234Ki", "pods": "110", "hugepages-2Mi": "0"}
    conditions = [
        {
            "type": kind,
            "status": "True" if kind == "Ready" else "False",
            "reason": f"Kubelet{kind}",
            "message": "kubelet says something of ordinary length",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": now(),
        }
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    images = [
        {"names": [f"registry.example.com/repository-{i}@sha256:{i:064x}"], "sizeBytes": 10**8}
        for i in range(40)
    ]
    info = dict.fromkeys(
        ("machineID", "systemUUID", "osImage", "containerRuntimeVersion", "kubeProxyVersion"), "x"
    )
    info |= {"bootID": f"boot-{number}", "kernelVersion": "6.12", "kubeletVersion": "v1.37.2"}
    info |= {"operatingSystem": "linux", "architecture": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": _metadata(name, labels=labels | {"fleet": "yes"}),
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": conditions,
            "images": images,
            "nodeInfo": info,
        },
    }


def agent_pod(number: int) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "agent"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(f"som-agent-{number:05d}", namespace=NAMESPACE, labels=labels),
        "spec": {
            "nodeName": f"node-{number:05d}",
            "containers": [{"name": "agent", "image": "agent", "imagePullPolicy": "IfNotPresent"}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def _metadata(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now(), **more}


def settled(number: int, uid: str) -> dict[str, Any]:
    """A SomNode as operator and agent leave it, with the managedFields that this takes."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": f"node-{number:05d}", "uid": uid}
    told = [
        *(_condition(kind, "True", reason) for kind, reason in _WELL),
        *(_condition(kind, "False", reason) for kind, reason in _NOTHING_WRONG),
    ]
    spec = {
        "pools": [
            {
                "name": POOL,
                "generation": 1,
                **{field: SPEC[field] for field in ("unit", "capacity", "source")},
            }
        ]
    }
    status = {
        **_report(number, spec, 1, allocated="1Gi"),
        "hugePages": [],
        "conditions": told,
    }
    managed = {
        "operation": "Apply",
        "apiVersion": kube.SOMNODES.api_version,
        "time": now(),
        "fieldsType": "FieldsV1",
        "subresource": "status",
        "fieldsV1": {"f:status": _fields(status)},
    }
    return {
        "apiVersion": kube.SOMNODES.api_version,
        "kind": kube.SOMNODES.kind,
        "metadata": _metadata(
            f"node-{number:05d}",
            generation=1,
            ownerReferences=[owner],
            managedFields=[{"manager": "som-agent", **managed}],
        ),
        "spec": spec,
        "status": status,
    }


_WELL = (("Ready", "Reserved"), ("AgentReady", "AgentReady"))
_NOTHING_WRONG = (
    ("Degraded", "AsExpected"),
    ("Blocked", "AsExpected"),
    ("BooksPending", "BooksAgree"),
)


def _fields(value: Any) -> dict[str, Any]:
    """What server-side apply notes of a value's fields."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return {f'k:{{"n":{n}}}': {".": {}, **_fields(inner)} for n, inner in enumerate(value)}
    return {}


async def fill_etcd(url: str, count: int, *, in_place: bool) -> None:
    """Write the fleet where the API server keeps it: through it, this alone takes minutes.

    `in_place`: with its SomNodes, and everything offered.
    """
    async with Etcd(url) as etcd:
        for start in range(0, count, 100):
            numbers = range(start, min(start + 100, count))
            nodes = {n: node(n) for n in numbers}
            if in_place:
                for one in nodes.values():
                    one["status"]["capacity"] = {**one["status"]["capacity"], **OFFERED}
            puts = [etcd.put(f"minions/node-{n:05d}", nodes[n]) for n in numbers]
            if in_place:
                puts += [
                    etcd.put(
                        f"som.io/somnodes/node-{n:05d}", settled(n, nodes[n]["metadata"]["uid"])
                    )
                    for n in numbers
                ]
            puts += [etcd.put(f"pods/{NAMESPACE}/som-agent-{n:05d}", agent_pod(n)) for n in numbers]
            await asyncio.gather(*puts)


class Etcd:
    """Where the API server keeps its objects. What is written here, its watches tell."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def put(self, key: str, value: dict[str, Any]) -> None:
        body = {
            "key": base64.b64encode(f"/registry/{key}".encode()).decode(),
            "value": base64.b64encode(json.dumps(value).encode()).decode(),
        }
        async with self._session.post(f"{self._url}/v3/kv/put", json=body) as answer:
            answer.raise_for_status()


# What happens in the cluster beside the operator.


class Fleet:
    """Plays every agent and kubelet, and sees what an admin would see."""

    def __init__(self, client: kube.Client, count: int, *, etcd: str) -> None:
        self.client, self.count, self._etcd = client, count, etcd
        self.ready_at: dict[int, float] = {}
        self.reported = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = itertools.count()
        self._at_once = asyncio.Semaphore(24)
        self.somnodes = self._follow(kube.SOMNODES, self._ordered)
        self.nodes = self._follow(kube.NODES, lambda *_: None, decode=_units)
        self.pools = self._follow(kube.SOMPOOLS, self._pool_changed)

    def _follow(
        self,
        resource: kube.Resource,
        on_change: Callable[..., None],
        decode: Callable[[kube.Json], Any] = lambda item: item,
    ) -> kube.Reflector[Any]:
        return kube.Reflector(self.client, resource, decode=decode, on_change=on_change)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            watches = [tasks.create_task(w.run()) for w in (self.somnodes, self.nodes, self.pools)]
            for watch in (self.somnodes, self.nodes, self.pools):
                await watch.wait_synced()
            yield
            for task in [*watches, *self._tasks]:
                task.cancel()

    def _ordered(self, key: kube.Key, old: kube.Json | None, new: kube.Json | None) -> None:
        """An agent acts some time after its order, which takes its time on a real node."""
        if new is None:
            return
        generation = new["metadata"]["generation"]
        is_new = old is None or old["metadata"]["generation"] != generation
        if is_new and new.get("status", {}).get("observedGeneration") != generation:
            self._begin(self._report_after(key.name, random.uniform(0.5, 2.0)))

    def _pool_changed(self, key: kube.Key, old: object, new: kube.Json | None) -> None:
        ready = (new or {}).get("status", {}).get("nodes", {}).get("ready", 0)
        self.ready_at.setdefault(ready, time.monotonic())

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_after(self, name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.report(name)

    async def report(self, name: str) -> None:
        """What som-agent applies, each time with another amount allocated."""
        somnode = self.somnodes.cache.get(kube.Key("", name))
        if somnode is None:
            return
        generation, taken = somnode["metadata"]["generation"], next(self._turn) % 32
        number, spec = int(name.rpartition("-")[2]), somnode["spec"]
        status = _report(number, spec, generation, allocated=f"{taken}Gi")
        body = {
            "apiVersion": kube.SOMNODES.api_version,
            "kind": kube.SOMNODES.kind,
            "metadata": {"name": name},
            "status": status,
        }
        path = kube.SOMNODES.path(name=name, subresource="status")
        await self._send(lambda: self.client.apply(path, body, field_manager="som-agent"))
        self.reported += 1

    def _reported_again(self, name: str) -> kube.Json:
        """The SomNode, as etcd has it, with another amount allocated."""
        somnode = self.somnodes.cache[kube.Key("", name)]
        metadata = {k: v for k, v in somnode["metadata"].items() if k != "resourceVersion"}
        taken = {"allocated": f"{next(self._turn) % 32}Gi"}
        pools = [{**pool, **taken} for pool in somnode["status"]["pools"]]
        return {**somnode, "metadata": metadata, "status": {**somnode["status"], "pools": pools}}

    async def _send(self, request: Callable[[], Awaitable[Any]]) -> None:
        """Agents and kubelets try again; one refusal says nothing about the operator."""
        async with self._at_once:
            with contextlib.suppress(kube.KubeError):
                await request()

    async def live(self, every_s: float, until_s: float) -> None:
        """Every agent reports once in `every_s`, and kubelets send their status.

        These reports are written into etcd: 5 000 agents together take more CPU of the API server
        than the operator, which it would then have no time to serve.
        """

        async def one(name: str, etcd: Etcd) -> None:
            await asyncio.sleep(random.uniform(0, every_s))
            while True:
                begun_s = time.monotonic()
                await etcd.put(f"som.io/somnodes/{name}", self._reported_again(name))
                self.reported += 1
                await asyncio.sleep(max(0.0, begun_s + every_s - time.monotonic()))

        async def kubelet(number: int) -> None:
            await asyncio.sleep(random.uniform(0, KUBELET_EVERY_S))
            beat = {"status": {"conditions": node(number)["status"]["conditions"]}}
            path = kube.NODES.path(name=f"node-{number:05d}", subresource="status")
            await self._send(lambda: self.client.merge_patch(path, beat))

        with contextlib.suppress(TimeoutError):
            async with (
                Etcd(self._etcd) as etcd,
                asyncio.timeout(until_s),
                asyncio.TaskGroup() as tasks,
            ):
                for number in range(self.count):
                    tasks.create_task(one(f"node-{number:05d}", etcd))
                    tasks.create_task(kubelet(number))

    def ordered(self, capacity: str | None) -> bool:
        wanted = [capacity] if capacity else []
        have = sum(
            [entry["capacity"] for entry in somnode["spec"].get("pools", ())] == wanted
            for somnode in self.somnodes.cache.values()
        )
        return have == self.count

    def advertised(self, units: str, *, at_least: int | None = None) -> bool:
        """Whether all nodes have so many units, or so many nodes."""
        have = sum(int(value == units) for value in self.nodes.cache.values())
        return have >= (self.count if at_least is None else at_least)

    def ready(self, capacity: str) -> bool:
        pool = self.pools.cache.get(kube.Key("", POOL), {})
        status = pool.get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        return (
            conditions.get("Ready") == "True"
            and pool["spec"]["capacity"] == capacity
            and status["observedGeneration"] == pool["metadata"]["generation"]
            and status["nodes"]["ready"] == self.count
        )

    def observed_generation(self) -> int:
        """The generation of the pool that its status is about."""
        pool = self.pools.cache.get(kube.Key("", POOL), {})
        return int(pool.get("status", {}).get("observedGeneration", 0))

    def ready_stood_s(self) -> float:
        """The longest time between two counts of READY-NODES, each higher than the last."""
        times = [at_s for _, at_s in sorted(self.ready_at.items())]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


def _condition(kind: str, status: str, reason: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": now()}


def _units(item: kube.Json) -> str:
    return str(item["status"].get("capacity", {}).get("som.io/2Mi", ""))


def _report(
    number: int, spec: dict[str, Any], generation: int, *, allocated: str
) -> dict[str, Any]:
    """What the agent of a node says once it has done what `spec` orders."""
    conditions = [
        _condition("Ready", "True", "Reserved"),
        *(_condition(kind, "False", "AsExpected") for kind in ("Degraded", "Blocked")),
    ]
    pools = [
        {
            **{field: entry[field] for field in ("name", "generation", "unit", "capacity")},
            "allocated": allocated,
            "free": "32Gi",
            "numa": [{"node": number, "capacity": "32Gi"} for number in (0, 1)],
            "conditions": conditions[:1],
        }
        for entry in spec.get("pools", ())
    ]
    return {
        "observedGeneration": generation,
        "bootID": f"boot-{number}",
        "kernelVersion": "6.12",
        "agentVersion": "0.1.0",
        "pools": pools,
        "hugePages": [
            {"pageSize": "2Mi", "total": pool["capacity"], "pools": pool["capacity"]}
            for pool in pools
        ],
        "conditions": conditions,
    }
