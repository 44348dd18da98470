"""Whatever strangers write into a real API server, operator and agent go on, and pods are served.

The operator runs as its service account; the agent's watch of its pods is a process, too. Longer
by SOM_POISON_SECONDS; the seed is in the test's name.
"""

from __future__ import annotations

import asyncio
import collections
import collections.abc
import datetime
import json
import os
import random
import re
from typing import Any

import aiohttp
import pytest

from cluster.api.conftest import MERGE, NAMESPACE, ApiServer, headers_of, pod, send
from cluster.api.test_operator import Fleet, operator
from cluster.harness.errors import wait_until
from cluster.test_kube_runtime import speaker
from fakes.poison import LARGEST, Poison, fields_of, nested

__all__ = ["operator"]

# aiohttp's advice against what a stranger does here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

SECONDS = float(os.environ.get("SOM_POISON_SECONDS", "15"))
NODE = "poisoned-1"
STRANGER = {"stranger": "yes"}
TENANT, SHOP = "tenant", "shop"
MOST_MEMORY = 400 * 2**20
AGENT = "agents-pods"
KINDS = ("pods", "nodes", "sompools", "somnodes")
NAMESPACE_OF = "{{apiVersion: v1, kind: Namespace, metadata: {{name: {}}}}}"


@pytest.fixture
def fleet(api_server: ApiServer) -> collections.abc.Iterator[Fleet]:
    """One node with an agent that has done what it was ordered, and what its agent follows."""
    fleet = Fleet(api_server, "poisoned")
    fleet.join(NODE)
    fleet.apply("64Gi")
    fleet.reserve(NODE, "64Gi")
    fleet.until("the capacity", lambda: fleet.units(NODE) == "32768")
    for namespace in (TENANT, SHOP):
        fleet.kubectl("apply", "--filename=-", stdin=NAMESPACE_OF.format(namespace))
        fleet.kubectl(
            "wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}",
            "--timeout=60s",
        )  # fmt: skip
    # Else the last test's agent would seem to have seen what this one's has not.
    (api_server.namespaces.logs / f"{AGENT}.log").unlink(missing_ok=True)
    api_server.namespaces.start(AGENT, speaker("pods", NODE))
    yield fleet
    api_server.namespaces.stop(AGENT)
    for namespace in (TENANT, SHOP):
        # No kubelet is here to say that they have ended.
        fleet.kubectl("delete", "pods", "--all", f"--namespace={namespace}", "--force")
    fleet.kubectl("delete", "nodes", "--all")
    fleet.kubectl("delete", "somnodes", "--all")
    # A pool that is paused would stay.
    for pool in fleet.kubectl("get", "sompools", "--output=name").split():
        fleet.kubectl("patch", pool, "--type=merge", '--patch={"spec":{"paused":false}}')
    fleet.kubectl("delete", "sompools", "--all", "--timeout=60s")


class Watched:
    """A process of som in the namespaces: whether it lives, and what it takes."""

    def __init__(self, api_server: ApiServer, name: str) -> None:
        self._namespaces = api_server.namespaces
        self.name = name
        self._pid = (self._namespaces.state / f"{name}.pid").read_text().strip()

    def lives(self) -> bool:
        return self._namespaces.alive(self.name)

    def memory_bytes(self) -> int:
        """The most that it has had."""
        status = self._namespaces.run(["cat", f"/proc/{self._pid}/status"]).stdout
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) * 1024

    def cpu_s(self) -> float:
        stat = self._namespaces.run(["cat", f"/proc/{self._pid}/stat"]).stdout
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ports(self) -> list[str]:
        """Its ends of its connections to the API server."""
        sockets = self._namespaces.run(["ss", "--tcp", "--numeric", "--processes"]).stdout
        ports = re.findall(rf":(\d+) +\S+:443 .*pid={self._pid},", sockets)
        assert ports, sockets
        return ports

    def log(self) -> str:
        return (self._namespaces.logs / f"{self.name}.log").read_text()


def known_pods(agent: Watched) -> list[str]:
    """The pods that the agent knows, as it said last."""
    # The last line may be half written.
    lines = [line for line in agent.log().splitlines() if line[:1] + line[-1:] == "[]"]
    names: list[str] = json.loads(lines[-1]) if lines else []
    return names


async def create_pod(session: aiohttp.ClientSession, body: Any, *, kubelet: str = "") -> None:
    namespace = body["metadata"]["namespace"]
    path = f"/api/v1/namespaces/{namespace}/pods"
    status, answer = await send(session, "POST", path, body, kubelet=kubelet)
    assert status == 201, answer


async def see(agent: Watched, name: str) -> None:
    await asyncio.to_thread(
        wait_until, f"pod {name} to be seen", lambda: name in known_pods(agent), deadline_s=120
    )


def on_node(name: str, *, namespace: str = TENANT, **container: Any) -> dict[str, Any]:
    """A Pod of the node with one container."""
    made = pod(name, nodeName=NODE, containers=[{"name": "a", **container}])
    made["metadata"]["namespace"] = namespace
    return made


def honest_pod(name: str) -> dict[str, Any]:
    return on_node(name, namespace=SHOP, resources={"limits": {"som.io/2Mi": "4"}})


async def obey(fleet: Fleet, capacity: str, *, units: str) -> None:
    """The pool is changed, and the operator does all that this takes."""
    await asyncio.to_thread(fleet.apply, capacity)
    await asyncio.to_thread(fleet.reserve, NODE, capacity)
    await asyncio.to_thread(fleet.until, "the capacity", lambda: fleet.units(NODE) == units)


async def write(
    session: aiohttp.ClientSession,
    method: str,
    path: str,
    body: str,
    *,
    kubelet: str = "",
    content: str = "application/json",
) -> int:
    """One request; the answer, which may be as poisonous as what was sent, is not parsed."""
    headers = headers_of(kubelet=kubelet, content=content)
    async with session.request(method, path, data=body, headers=headers) as answer:
        await answer.read()
        return answer.status


def mirrored(item: dict[str, Any], *, node_uid: str) -> dict[str, Any]:
    """A Pod as the node's kubelet mirrors it, which is bound by no policy."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node_uid, "controller": True}
    annotations = item["metadata"].get("annotations", {}) | {"kubernetes.io/config.mirror": "x"}
    metadata = {**item["metadata"], "annotations": annotations, "ownerReferences": [owner]}
    return {**item, "metadata": metadata}


async def test_no_pod_that_anybody_may_create_ends_or_blinds_anything(
    api_server: ApiServer, fleet: Fleet, session: aiohttp.ClientSession
) -> None:
    agent, operators = Watched(api_server, AGENT), Watched(api_server, "som-operator")
    await create_pod(session, honest_pod("before"))
    await see(agent, "before")
    folder = f"/api/v1/namespaces/{TENANT}/pods"
    large = on_node("large", env=[{"name": "X", "value": "<" * LARGEST}])
    assert await write(session, "POST", folder, json.dumps(large)) == 201
    assert await write(session, "POST", folder, nested(on_node("deep"))) == 201
    async with session.get(f"{folder}/deep") as answer:
        assert fields_of(1000) in await answer.text()
    for name in ("large", "deep"):
        await see(agent, name)
        for number in range(3):
            patch = json.dumps({"metadata": {"labels": {"touched": str(number)}}})
            assert await write(session, "PATCH", f"{folder}/{name}", patch, content=MERGE) == 200
    amounts = {"som.io/2Mi": "100E"}
    hundred = on_node("hundred", resources={"limits": amounts, "requests": amounts})
    hundred["spec"]["automountServiceAccountToken"] = False
    mirror = mirrored(hundred, node_uid=fleet.get("node", NODE, ".metadata.uid"))
    await create_pod(session, mirror, kubelet=NODE)
    await see(agent, "hundred")
    await create_pod(session, honest_pod("after"))
    await see(agent, "after")
    await obey(fleet, "128Gi", units="65536")
    for each in (agent, operators):
        assert each.lives()
        assert each.memory_bytes() < MOST_MEMORY


@pytest.mark.parametrize("seed", [random.randrange(2**32)])
async def test_nothing_that_others_write_ends_or_blinds_operator_and_agent(
    seed: int,
    api_server: ApiServer,
    fleet: Fleet,
    session: aiohttp.ClientSession,
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent, operators = Watched(api_server, AGENT), Watched(api_server, "som-operator")
    await create_pod(session, honest_pod("before"))
    path = f"/api/v1/namespaces/{SHOP}/pods/before"
    _, honest = await send(session, "GET", path)
    node_uid = fleet.get("node", NODE, ".metadata.uid")
    before = [(each, each.cpu_s(), len(each.log())) for each in (agent, operators)]
    asked = requests(api_server)
    answers: collections.Counter[tuple[str, int]] = collections.Counter()
    poison = Poison(seed)
    now_s = asyncio.get_running_loop().time
    begun_s = looked_s = now_s()
    async with asyncio.timeout(SECONDS + 300):
        while now_s() < begun_s + SECONDS or not all(answers[kind, 201] for kind in KINDS):
            writing = [write_something(session, poison, node_uid=node_uid) for _ in range(4)]
            for answered in await asyncio.gather(*writing):
                answers.update(answered)
            if now_s() > looked_s + 5:
                await beat(session)
                assert fleet.units(NODE) == "32768"
                assert fleet.ordered(NODE) == "64Gi"
                looked_s = now_s()
    await create_pod(session, honest_pod("after"))
    await see(agent, "after")
    assert "before" in known_pods(agent)
    _, still = await send(session, "GET", path)
    assert (still["metadata"], still["spec"]) == (honest["metadata"], honest["spec"])
    await obey(fleet, "128Gi", units="65536")
    took_s = now_s() - begun_s
    with capsys.disabled():
        print(f"\n{answers.total()} writes: {dict(sorted(answers.items()))}")
        print(f"{requests(api_server) - asked} requests of the operator in {took_s:.0f} s")
        for each, cpu_s, _ in before:
            peak, used_s = each.memory_bytes() / 2**20, each.cpu_s() - cpu_s
            print(f"{each.name}: {peak:.0f} MiB at most, {used_s:.1f} s of CPU")
    for each, cpu_s, said in before:
        assert each.lives()
        assert "Traceback" not in each.log()[said:]
        assert each.memory_bytes() < MOST_MEMORY
        assert each.cpu_s() - cpu_s < took_s / 2


def requests(api_server: ApiServer) -> int:
    """How many the operator has sent so far."""
    audit = (api_server.namespaces.logs / "audit.log").read_text()
    return audit.count(f'"user":{{"username":"system:serviceaccount:{NAMESPACE}:som-operator"')


async def beat(session: aiohttp.ClientSession) -> None:
    """What a kubelet does every ten seconds."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
    body = {"status": {"conditions": [ready]}}
    await send(session, "PATCH", f"/api/v1/nodes/{NODE}/status", body, content=MERGE)


async def write_something(
    session: aiohttp.ClientSession, poison: Poison, *, node_uid: str
) -> list[tuple[str, int]]:
    """What a stranger, a kubelet, an admin or another agent writes: (kind, HTTP status) of each."""
    what = poison.random.choice(("pods", *KINDS))
    name = f"x-{poison.random.randrange(8)}"
    group = "/api/v1" if what in ("pods", "nodes") else "/apis/som.io/v1alpha1"
    folder = f"{group}/namespaces/{TENANT}/pods" if what == "pods" else f"{group}/{what}"
    if poison.often(4):
        options = json.dumps({"gracePeriodSeconds": 0})
        return [(f"{what} deleted", await write(session, "DELETE", f"{folder}/{name}", options))]
    kubelet = ""
    if what == "pods":
        node = poison.random.choice((NODE, "x-1", "x-2"))
        item = poison.pod(name, node=node) | {"status": poison.pod_status()}
        if node == NODE and poison.often(2):
            item, kubelet = mirrored(item, node_uid=node_uid), NODE
    else:
        make = {"nodes": poison.node, "sompools": poison.sompool, "somnodes": poison.somnode}
        item = make[what](name)
        for_strangers(item, alone=poison.often(2))
    text = nested(item) if what == "pods" and poison.often(5) else json.dumps(item)
    answers = [(what, await write(session, "POST", folder, text, kubelet=kubelet))]
    if answers == [(what, 409)]:
        parts = ("metadata",) if group == "/api/v1" else ("metadata", "spec")
        change = json.dumps({part: item[part] for part in parts if part in item})
        status = await write(session, "PATCH", f"{folder}/{name}", change, content=MERGE)
        answers.append((f"{what} changed", status))
    if "status" in item:
        change = json.dumps({"status": item["status"]})
        status = await write(session, "PATCH", f"{folder}/{name}/status", change, content=MERGE)
        answers.append((f"{what} status", status))
    return answers


def for_strangers(item: dict[str, Any], *, alone: bool) -> None:
    """Strangers' pools are for strangers' nodes: for others they would be an admin's decision."""
    if item["kind"] == "Node":
        item["metadata"]["labels"] = dict(STRANGER)
    elif item["kind"] == "SomPool":
        selector = {} if alone else item["spec"].get("nodeSelector", {})
        labels = {**selector.get("matchLabels", {}), **STRANGER}
        item["spec"]["nodeSelector"] = {**selector, "matchLabels": labels}


async def test_a_connection_whose_other_end_is_gone_without_a_word_is_given_up(
    api_server: ApiServer, fleet: Fleet, session: aiohttp.ClientSession
) -> None:
    agent, operators = Watched(api_server, AGENT), Watched(api_server, "som-operator")
    await create_pod(session, honest_pod("before"))
    await see(agent, "before")
    run = api_server.namespaces.run
    rules = [
        ["INPUT", "--protocol", "tcp", "--dport", port, "--jump", "DROP"]
        for each in (agent, operators)
        for port in each.ports()
    ]
    for rule in rules:
        run(["iptables", "--append", *rule])
    try:
        await create_pod(session, honest_pod("after"))
        await see(agent, "after")
        await obey(fleet, "128Gi", units="65536")
    finally:
        for rule in rules:
            run(["iptables", "--delete", *rule])
