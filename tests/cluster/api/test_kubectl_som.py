"""`kubectl som` on the real API server: the operator orders what the plan says, rows say what the
objects say, and errors name what is missing. The tests play the agents.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import sys
import tarfile
from typing import Any

import pytest

from cluster.api.conftest import NAMESPACE, ApiServer
from cluster.api.test_operator import Fleet, operator
from cluster.harness.errors import ClusterError, run, wait_until
from som_api import v1alpha1

__all__ = ["operator"]

BIG, SMALL = "plan-big", "plan-small"
NODES = {"plan-1": BIG, "plan-2": BIG, "plan-3": SMALL}
Json = dict[str, Any]
Specs = dict[str, Any]


def pool(name: str, capacity: str = "4Gi", *, on: str = BIG, **spec: Any) -> Json:
    """What an admin writes, to get a pool on the nodes of a fleet."""
    return {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomPool",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"matchLabels": {"fleet": on}},
            "unit": "2Mi",
            "capacity": capacity,
            "source": {"hugeTLB": {"pageSize": "2Mi"}},
            **spec,
        },
    }


def a_list(items: collections.abc.Sequence[Json]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command of `kubectl som` left behind."""

    status: int
    printed: str
    beside: str

    @property
    def json(self) -> Any:
        assert self.status in (0, 1), self.beside
        return json.loads(self.printed)

    def row(self, name: str) -> Json:
        """The row of this name."""
        (found,) = (row for row in self.json["items"] if name in (row.get("name"), row.get("pod")))
        return dict(found)


class World:
    """Two big nodes and a small one."""

    def __init__(self, api_server: ApiServer) -> None:
        self.api_server = api_server
        self.kubectl = api_server.kubectl
        self.big, self.small = Fleet(api_server, BIG), Fleet(api_server, SMALL)

    def som(self, *words: str, stdin: str | None = None) -> Answer:
        """As a person runs it: kubectl finds its plugin on PATH."""
        path = f"PATH={pathlib.Path(sys.executable).parent}:{self.api_server.namespaces.path}"
        command = self.api_server.namespaces.enter(["env", path, "kubectl", "som", *words])
        done = run(command, stdin=stdin, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    def somnodes(self) -> dict[str, Json]:
        return self._objects("somnodes")["SomNode"]

    def _objects(self, kinds: str) -> dict[str, dict[str, Json]]:
        """By kind and name."""
        found: dict[str, dict[str, Json]] = {"SomNode": {}, "SomPool": {}}
        for item in json.loads(self.kubectl("get", kinds, "--output=json"))["items"]:
            if item["kind"] == "SomPool" or item["metadata"]["name"] in NODES:
                found[item["kind"]][item["metadata"]["name"]] = item
        return found

    def become(self, expected: Specs, applied: set[str]) -> dict[str, Json]:
        """Wait until the operator has planned every node with these pools as they are now, and the
        SomNodes' specs are as expected; return the SomNodes.
        """
        seen, somnodes = False, dict[str, Json]()

        def is_done() -> bool:
            nonlocal seen, somnodes
            found = self._objects("sompools,somnodes")
            somnodes = found["SomNode"]
            seen = all(
                item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
                for name, item in found["SomPool"].items()
                if name in applied
            )
            return seen and specs(somnodes) == expected

        with contextlib.suppress(ClusterError):
            wait_until("the orders", is_done, deadline_s=60)
        assert specs(somnodes) == expected
        assert seen, "the operator has not seen the pools"
        return somnodes

    def report(self, somnodes: dict[str, Json], **allocated: str) -> None:
        """The agents have done what is ordered, and report it, with `allocated` of each pool.

        The kubelets report, too: else their nodes are taken as silent after 50 s.
        """
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        kubelet = {
            "capacity": {"cpu": "2", "memory": "1Ti"},
            "nodeInfo": {"bootID": "b1"},
            "conditions": [ready | {"lastHeartbeatTime": now}],
        }
        items = [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": kubelet}
            for node in NODES
        ]
        for node, item in somnodes.items():
            status = {
                "observedGeneration": item["metadata"]["generation"],
                "bootID": "b1",
                "pools": [_report(entry, allocated) for entry in item["spec"]["pools"]],
            }
            of = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "metadata": {"name": node}}
            items.append(of | {"status": status})
        words = ("apply", "--server-side", "--force-conflicts", "--subresource=status")
        self.kubectl(*words, "--validate=false", "--filename=-", stdin=a_list(items))


def _report(entry: Json, allocated: dict[str, str]) -> Json:
    whole = v1alpha1.parse_bytes(entry["capacity"])
    held = min(whole, v1alpha1.parse_bytes(allocated.get(entry["name"], "0")))
    return {
        **{key: entry[key] for key in ("name", "generation", "unit", "capacity")},
        "allocated": v1alpha1.format_bytes(held),
        "free": v1alpha1.format_bytes(whole - held),
        "conditions": [{"type": "Ready", "status": "True", "reason": "AsOrdered", "message": ""}],
    }


def specs(somnodes: dict[str, Json]) -> Specs:
    return {name: item["spec"] for name, item in somnodes.items()}


def generations(somnodes: dict[str, Json]) -> dict[str, int]:
    """How often each SomNode's spec has been written."""
    absent = {"metadata": {"generation": 0}}
    return {node: somnodes.get(node, absent)["metadata"]["generation"] for node in NODES}


def difference(before: Specs, after: Specs) -> set[tuple[str, str, int | None, int | None]]:
    """(node, pool, bytes before, bytes after) of what has changed."""
    found = set()
    for node in NODES:
        old, new = (_capacities(each.get(node, {})) for each in (before, after))
        found |= {
            (node, name, old.get(name), new.get(name))
            for name in old.keys() | new.keys()
            if old.get(name) != new.get(name)
        }
    return found


def _capacities(spec: Json) -> dict[str, int]:
    entries = spec.get("pools", [])
    return {entry["name"]: v1alpha1.parse_bytes(entry["capacity"]) for entry in entries}


@pytest.fixture
def world(api_server: ApiServer) -> collections.abc.Iterator[World]:
    world = World(api_server)
    for fleet in (world.big, world.small):
        fleet.join(*(node for node, of in NODES.items() if of == fleet.name))
    yield world
    world.kubectl("delete", "node", *NODES)
    world.kubectl("delete", "sompools", "--all", "--timeout=60s")
    # Their owners are gone, and the collector is about to find it.
    wait_until("the SomNodes to go", lambda: not world.somnodes(), deadline_s=60)


@dataclasses.dataclass(frozen=True)
class Case:
    """What an admin does, what the plan says of it, and what is ordered when the agents obeyed."""

    title: str
    what: set[str]
    applied: tuple[Json, ...] = ()
    deleted: tuple[str, ...] = ()
    in_the_end: dict[str, str] = dataclasses.field(default_factory=dict)


CASES = (
    Case("a new pool", {"new"}, (pool("databases"),)),
    Case("the same again", set(), (pool("databases"),)),
    Case("a grown pool", {"grows"}, (pool("databases", "6Gi"),)),
    Case("a shrunk pool", {"shrinks"}, (pool("databases", "2Gi"),)),
    Case("a conflict", {"conflicts"}, (pool("analytics"),)),
    Case("a paused pool", set(), (pool("databases", "8Gi", paused=True),)),
    Case("no longer paused", {"grows"}, (pool("databases", "8Gi"),)),
    Case(
        "another selector, and the rival waits",
        {"leaves", "new"},
        (pool("databases", "8Gi", on=SMALL),),
        in_the_end={"plan-1": "analytics", "plan-2": "analytics", "plan-3": "databases"},
    ),
    Case(
        "a deleted pool, and its successor waits",
        {"leaves", "waits"},
        (pool("zoo"),),
        ("analytics",),
        in_the_end={"plan-1": "zoo", "plan-2": "zoo", "plan-3": "databases"},
    ),
    Case("all is deleted", {"leaves"}, deleted=("databases", "zoo")),
)


def test_the_plan_is_what_then_happens(world: World) -> None:
    somnodes: dict[str, Json] = {}
    for case in CASES:
        somnodes = _holds(world, case, somnodes)


def _holds(world: World, case: Case, before: dict[str, Json]) -> dict[str, Json]:
    """Plan, do it, and compare; the SomNodes when the agents have obeyed."""
    manifest = a_list(case.applied)
    words = [*(["--filename=-"] if case.applied else []), *(f"--delete={n}" for n in case.deleted)]
    answer = world.som("plan", *words, "--output=json", stdin=manifest)
    planned = {node: spec for node, spec in answer.json["somNodeSpecs"].items() if node in NODES}
    # What stays has a note, such as that no agent is there.
    changes = [change for change in answer.json["changes"] if change["what"] != "stays"]
    assert {change["what"] for change in changes} == case.what, case.title
    untouched = world.somnodes()
    assert specs(untouched) == specs(before), f"before {case.title}: something came late"
    assert generations(untouched) == generations(before), f"{case.title}: a plan changed it"

    if case.applied:
        world.kubectl("apply", "--filename=-", stdin=manifest)
    for name in case.deleted:
        world.kubectl("delete", "sompool", name, "--wait=false")
    after = world.become(planned, {item["metadata"]["name"] for item in case.applied})

    real = difference(specs(before), specs(after))
    assert answer.status == (1 if real else 0), case.title
    said = {(c["node"], c["pool"], c["nowBytes"], c["thenBytes"]) for c in changes}
    assert {change for change in said if change[2] != change[3]} == real, case.title
    written = {node for node in NODES if planned.get(node) != specs(before).get(node)}
    once = {node: count + (node in written) for node, count in generations(before).items()}
    assert generations(after) == once, f"{case.title}: a node was ordered more than once"
    world.report(after)
    if not case.in_the_end:
        return after
    wait_until("the successors", lambda: _ordered(world) == case.in_the_end, deadline_s=60)
    after = world.somnodes()
    world.report(after)
    return after


def _ordered(world: World) -> dict[str, str]:
    """The pools that each node is ordered."""
    found = world.somnodes().items()
    return {node: ",".join(_capacities(item["spec"])) for node, item in found}


def test_what_is_shown_is_what_the_objects_say(world: World, tmp_path: pathlib.Path) -> None:
    world.kubectl("apply", "--filename=-", stdin=a_list([pool("databases", "2Gi")]))
    world.small.apply("1Gi")
    wait_until("the orders", lambda: len(world.somnodes()) == 3, deadline_s=60)
    world.report(world.somnodes(), databases="1Gi")
    lacks = {"type": "Ready", "status": "False", "reason": "PartlyReserved", "message": "no memory"}
    world.small.report("plan-3", world.small.pool("0", conditions=[lacks]))
    world.big.create_pod("shop", units=512, nodeName="plan-1")
    world.big.create_pod("late", units=4096, tolerations=[{"operator": "Exists"}])
    try:
        databases = Fleet(world.api_server, "databases")
        wait_until("Ready", lambda: databases.ready() == "True Reserved", deadline_s=60)
        world.report({})
        _explained(world, databases)
        _explained(world, world.small)
        world.report({})
        _shown(world)
        _gathered(world, tmp_path / "gathered.tar.gz")
    finally:
        world.kubectl("delete", "pod", "shop", "late", "--force")


def _explained(world: World, fleet: Fleet) -> None:
    """A pool by its condition, which may change meanwhile."""

    def agrees() -> bool:
        answer = world.som("explain", f"pool/{fleet.name}")
        status, reason = fleet.ready().split()
        if status == "True":
            return (answer.status, answer.beside) == (
                0,
                "",
            ) and "nothing is wrong" in answer.printed
        return answer.status == 1 and f"is not Ready: {reason}\n" in answer.printed

    wait_until(f"{fleet.name} to be explained", agrees, deadline_s=60)


def _shown(world: World) -> None:
    gib = 2**30
    status = world.som("status", "--output=json")
    assert status.status == 1
    whole = status.json
    assert (whole["namespace"], whole["pools"], whole["nodes"]) == (NAMESPACE, 2, 3)
    sums = (whole["capacityBytes"], whole["allocatedBytes"], whole["freeBytes"])
    assert sums == (4 * gib, 2 * gib, 2 * gib)
    assert ("operator", "NotReady") in {
        (each["kind"], each["reason"]) for each in whole["troubles"]
    }
    row = world.som("pools", "--output=json").row("databases")
    assert (row["capacityBytes"], row["allocatedBytes"], row["nodes"]) == (4 * gib, 2 * gib, 2)
    row = world.som("nodes", "--output=json").row("plan-1")
    assert (row["pools"], row["capacityBytes"], row["freeBytes"]) == (["databases"], 2 * gib, gib)
    row = world.som("leases", "--output=json").row("shop")
    shown = {key: row[key] for key in ("namespace", "node", "pool", "requestedBytes")}
    wanted = {"namespace": "default", "node": "plan-1", "pool": "databases"}
    assert shown == wanted | {"requestedBytes": gib}
    assert re.search(r"default/shop +1Gi +9Gi .* plan-1", world.som("top").printed)
    node = world.som("explain", "node/plan-3")
    assert node.status == 1
    assert f"pool {SMALL} on node plan-3: is not Ready: PartlyReserved" in node.printed
    late = world.som("explain", "late")
    assert late.status == 1
    assert "pod late: waits for a node" in late.printed
    assert "it needs 8Gi of som.io/2Mi on one node" in late.printed


def _gathered(world: World, file: pathlib.Path) -> None:
    """Everything is there but the metrics of pods that run nowhere."""
    answer = world.som("must-gather", f"--file={file}")
    missing = [line for line in answer.beside.splitlines() if line.startswith("missing: ")]
    assert answer.status == (1 if missing else 0), answer
    assert all(line.startswith("missing: metrics/") for line in missing), missing
    with tarfile.open(file) as tar:
        names = {name.partition("/")[2]: name for name in tar.getnames()}
        content = tar.extractfile(names["cluster/sompools.json"])
        assert content is not None
        pools = json.load(content)
    assert {"databases", SMALL} == {item["metadata"]["name"] for item in pools}
    assert not [name for name in names if "secret" in name or "configmap" in name]


def test_a_person_without_rights_is_told_which(api_server: ApiServer) -> None:
    world = World(api_server)
    for words in (["status"], ["leases"], ["explain", "pool/a"]):
        answer = world.som(*words, "--as=nobody")
        assert (answer.status, answer.printed) == (2, ""), words
        assert 'User "nobody" cannot ' in answer.beside
        assert "your user lacks this right" in answer.beside


def test_the_rights_that_a_plan_needs_are_those_of_the_manual(api_server: ApiServer) -> None:
    world, namespaced = World(api_server), f"--namespace={NAMESPACE}"
    for words in (
        ("clusterrole", "looks", "--verb=list", "--resource=sompools,somnodes,nodes"),
        ("clusterrole", "applies", "--verb=get,create,patch", "--resource=sompools"),
        ("role", "pods", "--verb=list", "--resource=pods", namespaced),
        ("clusterrolebinding", "looks", "--clusterrole=looks", "--user=planner"),
        ("rolebinding", "pods", "--role=pods", "--user=planner", namespaced),
    ):
        world.kubectl("create", *words)
    plan = ("plan", "--filename=-", "--as=planner")
    refused = world.som(*plan, stdin=a_list([pool("planned")]))
    assert refused.status == 2
    assert 'User "planner" cannot get resource "sompools"' in refused.beside
    world.kubectl(
        "create", "clusterrolebinding", "applies", "--clusterrole=applies", "--user=planner"
    )

    def planned() -> bool:
        answer = world.som(*plan, stdin=a_list([pool("planned")]))
        return (answer.status, answer.beside) == (0, "")

    wait_until("the plan", planned, deadline_s=60)


@pytest.mark.parametrize(
    "words",
    [
        ["leases", "--context=nowhere"],
        ["pools", "--server=https://127.0.0.1:9"],
        ["plan", "--filename=-", "--server=https://127.0.0.1:9"],
    ],
    ids=" ".join,
)
def test_a_cluster_that_is_not_there(api_server: ApiServer, words: list[str]) -> None:
    answer = World(api_server).som(*words, stdin=a_list([pool("a")]))
    assert (answer.status, answer.printed) == (2, "")
    assert "see that the cluster is up" in answer.beside


def test_a_cluster_without_som(api_server: ApiServer) -> None:
    """No kind of som is served, as where nobody has applied its CRDs."""
    world = World(api_server)
    commands = (["status"], ["plan", "--filename=-"], ["explain", "node/plan-1"])
    _serve(world, "false")
    try:
        wait_until("the kinds to go", lambda: not _are_served(world), deadline_s=60)
        for words in commands:
            answer = world.som(*words, stdin=a_list([pool("a")]))
            assert (answer.status, answer.printed) == (2, ""), answer
            assert "the cluster does not know som: install the chart" in answer.beside
    finally:
        _serve(world, "true")
    wait_until("the kinds again", lambda: _are_served(world), deadline_s=60)


def _are_served(world: World) -> bool:
    where = "/apis/som.io/v1alpha1/somnodes"
    return world.api_server.try_kubectl("get", "--raw", where).returncode == 0


def _serve(world: World, value: str) -> None:
    change = f'[{{"op": "replace", "path": "/spec/versions/0/served", "value": {value}}}]'
    for name in ("sompools.som.io", "somnodes.som.io"):
        world.kubectl("patch", "crd", name, "--type=json", f"--patch={change}")
