"""Whatever others write, the operator and the agent's watches go on, and honest pods are served.

SOM_POISON_SECONDS makes it longer; the seed is in the test's name and SOM_POISON_SEED repeats it.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator

import hypothesis
import pytest
from hypothesis import strategies

from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from fakes.poison import Poison
from som_api import kube, v1alpha1
from som_api.plan import observed
from som_device_plugin import pods as agents_pods
from som_device_plugin.cluster import orders, pods
from unit.operator.cluster import SOM, Cluster
from waiting import until

SECONDS = float(os.environ.get("SOM_POISON_SECONDS", "1"))
# All workers of a run collect the same tests.
_DICE = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))
SEEDS = os.environ.get("SOM_POISON_SEED", str(_DICE.randrange(2**32)))
STRANGERS = "tenant"


@hypothesis.given(seed=strategies.integers(0, 2**32))
def test_what_the_schemas_accept_can_be_read(seed: int) -> None:
    poison = Poison(seed, large=0)
    somnode = poison.somnode("n")
    if poison.keeps_rules:
        v1alpha1.SomNode.model_validate(somnode)
    node = poison.node("n")
    node["metadata"] |= {"uid": "u"}
    observed.decode_node(node)
    pod = poison.pod("p", node="n") | {"status": poison.pod_status()}
    pod["metadata"] |= {"namespace": STRANGERS, "uid": "u"}
    observed.decode_pod(pod, agent_namespace="som-system")
    for request in agents_pods.decode_pod(pod).containers:
        assert 0 < request.size_bytes < 2**63


@contextlib.asynccontextmanager
async def agent(server: FakeApiServer, clock: FakeClock) -> AsyncIterator[pods.NodePods]:
    """What the agent of node `n` follows."""
    async with server.client() as client, asyncio.TaskGroup() as tasks:
        known = pods.NodePods(client, node_name="n", time=clock)
        ordered = orders.NodeOrders(client, node_name="n", time=clock)
        running = [tasks.create_task(known.watch.run()), tasks.create_task(ordered.watch.run())]
        yield known
        for task in running:
            task.cancel()


def honest_pod(name: str, *, units: int) -> kube.Json:
    amounts = {"som.io/2Mi": str(units), "som.io/ticket": "1"}
    container = {"name": "c", "resources": {"limits": amounts, "requests": amounts}}
    metadata = {"name": name, "namespace": "shop"}
    return {"metadata": metadata, "spec": {"nodeName": "n", "containers": [container]}}


def write_something(cluster: Cluster, poison: Poison) -> None:
    """One write of a stranger, a kubelet, an admin or an agent of another node."""
    name = f"x-{poison.random.randrange(8)}"
    what = poison.random.choice(("pods", "pods", "pods", "nodes", "sompools", "somnodes"))
    version = SOM if what.startswith("som") else "v1"
    namespace = STRANGERS if what == "pods" else ""
    if poison.often(4):
        cluster.server.remove(version, what, name, namespace=namespace)
        return
    if what == "pods":
        item = poison.pod(name, node=poison.random.choice(("n", "x-1", "x-2", "")))
        item |= {"status": poison.pod_status()}
        item["metadata"]["namespace"] = namespace
    else:
        item = {"nodes": poison.node, "sompools": poison.sompool, "somnodes": poison.somnode}[what](
            name
        )
    cluster.server.put(version, what, item)


@pytest.mark.parametrize("seed", [int(seed) for seed in SEEDS.split(",")])
async def test_nothing_that_others_write_ends_or_blinds_operator_and_agent(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock(runs_ahead=True)
    async with FakeApiServer(time=clock) as server:
        cluster = Cluster(server, clock)
        cluster.node()
        cluster.pool()
        server.put("v1", "pods", honest_pod("db", units=8))
        async with cluster.operator(), agent(server, clock) as known:
            await cluster.ready()
            before = cluster.capacity()
            poison = Poison(seed, large=3)
            async with asyncio.timeout(SECONDS + 60):
                loop = asyncio.get_running_loop()
                end_s = loop.time() + SECONDS
                while loop.time() < end_s:
                    write_something(cluster, poison)
                    await asyncio.sleep(0.001)
            assert cluster.capacity() == before
            # An admin's pool of the other unit may be ordered beside it.
            assert "a" in cluster.ordered()
            server.put("v1", "pods", honest_pod("after", units=4))
            await until(lambda: known.get(namespace="shop", name="after") is not None)
            for name, units in (("db", 8), ("after", 4)):
                honest = known.get(namespace="shop", name=name)
                assert honest is not None
                assert [request.count for request in honest.containers] == [units]
            cluster.pool(capacity="2Gi")

            def ordered() -> dict[str, str]:
                pools = cluster.expect(SOM, "somnodes", "n")["spec"]["pools"]
                return {pool["name"]: pool["capacity"] for pool in pools}

            await until(lambda: ordered()["a"] == "2Gi")
    mistakes = [r for r in caplog.records if r.name.startswith("som_") and r.exc_info]
    assert not mistakes, mistakes[0].getMessage()
