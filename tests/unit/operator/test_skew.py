"""An upgrade meets what the release before left, and agents of it for as long as it takes.

`last_release/` has a pool and a SomNode as that release wrote them, and every field of an order
that its agents know: they refuse any other.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from som_api import kube
from som_device_plugin.cluster import orders
from unit.operator.cluster import SOM, SOMNODE_PATH, Cluster
from waiting import until

LAST_RELEASE = pathlib.Path(__file__).parent / "last_release"
LABELS = {"size": "big", "kubernetes.io/os": "linux"}


def of_last_release(name: str) -> kube.Json:
    item: kube.Json = json.loads((LAST_RELEASE / f"{name}.json").read_text())
    return item


def fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of every field below `value`."""
    if isinstance(value, list):
        for each in value:
            yield from fields(each, f"{path}[]")
    elif isinstance(value, dict):
        for name, each in value.items():
            yield f"{path}.{name}", each
            yield from fields(each, f"{path}.{name}")


async def test_what_the_release_before_ordered_and_reported_stands(cluster: Cluster) -> None:
    cluster.node(labels=LABELS)
    node = cluster.expect("v1", "nodes", "n")
    node["status"]["capacity"] |= {"som.io/2Mi": "32768", "hugepages-2Mi": "64Gi"}
    cluster.server.put("v1", "nodes", node)
    cluster.server.put(SOM, "sompools", of_last_release("sompool"))
    somnode = of_last_release("somnode")
    somnode["metadata"]["ownerReferences"][0]["uid"] = node["metadata"]["uid"]
    stored = cluster.server.put(SOM, "somnodes", somnode)
    pool = cluster.expect(SOM, "sompools", "databases")
    stored["spec"]["pools"][0]["generation"] = pool["metadata"]["generation"]
    stored = cluster.server.put(SOM, "somnodes", stored)
    stored["status"]["observedGeneration"] = stored["metadata"]["generation"]
    cluster.server.put(SOM, "somnodes", stored)
    async with cluster.operator() as operator:
        await until(lambda: operator.fleet.synced)
        await cluster.quiet()
    assert cluster.expect(SOM, "somnodes", "n")["spec"] == stored["spec"]
    assert cluster.capacity() == "32768"
    assert cluster.condition(of="databases") == ("True", "Reserved")
    paths = {r.path for r in cluster.server.requests if r.verb in ("create", "patch")}
    assert not {path for path in paths if path.startswith(SOMNODE_PATH) and "status" not in path}


async def test_an_order_that_the_release_before_could_give_has_no_field_that_it_does_not_know(
    cluster: Cluster,
) -> None:
    cluster.node(labels=LABELS)
    cluster.server.put(SOM, "sompools", of_last_release("sompool"))
    async with cluster.operator():
        await until(lambda: cluster.ordered() == ["databases"])
    known: dict[str, list[str]] = {}
    for line in (LAST_RELEASE / "orders.txt").read_text().splitlines():
        path, _, values = line.partition(" = ")
        known[path] = values.split("|") if values else []
    for path, value in fields(cluster.expect(SOM, "somnodes", "n")["spec"], "spec"):
        assert path in known
        assert not known[path] or value in known[path]


def test_an_agent_reads_the_orders_of_the_release_before() -> None:
    observed = orders.decode_somnode(of_last_release("somnode"))
    assert observed.spec is not None
    (order,) = observed.spec.pools
    assert (order.name, order.capacity) == ("databases", 64 * 2**30)
    assert (observed.status.boot_id, observed.status.observed_generation) == ("b1", 3)
