"""som-operator with its own rights against the real API server; the tests play the agents."""

from __future__ import annotations

import collections.abc
import json
import pathlib
import re
import sys
from typing import Any

import pytest

from cluster.api.conftest import NAMESPACE, ApiServer
from cluster.harness.errors import wait_until

GIB = 2**30
GOLDEN = """\
NAME        UNIT   CAPACITY   ALLOCATED   NODES   READY-NODES   READY   REASON           AGE
databases   2Mi    704Gi      512Gi       12      11            False   PartlyReserved   <age>
"""


class Fleet:
    """Nodes of one test, which share a label, and a pool named like it."""

    def __init__(self, api_server: ApiServer, name: str) -> None:
        self.kubectl = api_server.kubectl
        self.name = name

    def get(self, kind: str, name: str, path: str) -> Any:
        """One field of an object, or "" where object or field does not exist."""
        words = ["get", kind, name, "--ignore-not-found", f"--output=jsonpath={{{path}}}"]
        return self.kubectl(*words)

    def join(self, *names: str, boot_id: str = "b1") -> None:
        """Nodes register; their kubelets are ready."""
        labels = {"fleet": self.name}
        nodes = [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            for name in names
        ]
        self.kubectl("create", "--filename=-", stdin=_list(nodes))
        status = {
            "capacity": {"cpu": "2", "memory": "1Ti"},
            "nodeInfo": {"bootID": boot_id},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        self._apply_statuses("v1", "Node", dict.fromkeys(names, status))

    def apply(self, capacity: str, **spec: Any) -> None:
        """An admin writes a pool of the fleet's nodes."""
        pool = {
            "apiVersion": "som.io/v1alpha1",
            "kind": "SomPool",
            "metadata": {"name": self.name},
            "spec": {
                "nodeSelector": {"matchLabels": {"fleet": self.name}},
                "unit": "2Mi",
                "capacity": capacity,
                "source": {"hugeTLB": {"pageSize": "2Mi"}},
                **spec,
            },
        }
        self.kubectl("apply", "--filename=-", stdin=json.dumps(pool))

    def ordered(self, node: str) -> str:
        return str(self.get("somnode", node, ".spec.pools[*].capacity"))

    def report(self, node: str, *pools: dict[str, Any], **fields: Any) -> None:
        """The node's agent reports, about what it has been ordered."""
        self.report_all({node: {"pools": list(pools), **fields}})

    def report_all(self, reports: dict[str, dict[str, Any]]) -> None:
        """The agents of many nodes report."""
        somnodes, nodes = self._all("somnodes"), self._all("nodes")
        statuses = {
            node: {
                "observedGeneration": somnodes[node]["metadata"]["generation"],
                "bootID": nodes[node]["status"]["nodeInfo"]["bootID"],
                **report,
            }
            for node, report in reports.items()
        }
        self._apply_statuses("som.io/v1alpha1", "SomNode", statuses)

    def _all(self, kind: str) -> dict[str, Any]:
        listed = json.loads(self.kubectl("get", kind, "--output=json"))["items"]
        return {item["metadata"]["name"]: item for item in listed}

    def pool(self, capacity: str, **fields: Any) -> dict[str, Any]:
        """What an agent says about the fleet's pool."""
        has = {"capacity": capacity, "allocated": "0", "free": capacity}
        return {"name": self.name, "generation": 1, "unit": "2Mi", **has, **fields}

    def units(self, node: str) -> str:
        return str(self.get("node", node, r".status.capacity.som\.io/2Mi"))

    def ready(self) -> str:
        """Status and reason of the pool's condition Ready."""
        path = '.status.conditions[?(@.type=="Ready")]'
        found = self.get("sompool", self.name, path)
        ready = json.loads(found) if found else {"status": "", "reason": ""}
        return f"{ready['status']} {ready['reason']}"

    def until(self, what: str, probe: collections.abc.Callable[[], Any]) -> None:
        wait_until(what, probe, deadline_s=60)

    def reserve(self, node: str, capacity: str) -> None:
        """Wait for the order, and play an agent that obeys."""
        self.until("the order", lambda: self.ordered(node) == capacity)
        self.report(node, self.pool(capacity))

    def count_huge_pages(self, node: str, quantity: str) -> None:
        """The node's kubelet has started again, and counts so much."""
        self._patch_status("node", node, {"capacity": {"hugepages-2Mi": quantity}})

    def play_kubelet(self, node: str) -> None:
        """Copy capacity to allocatable and offer tickets, as kubelet and our plugin would."""
        capacity = json.loads(self.get("node", node, ".status.capacity"))
        offered = {**capacity, "pods": "110", "som.io/ticket": "256"}
        self._patch_status("node", node, {"capacity": offered, "allocatable": offered})

    def create_pod(self, name: str, *, units: int, **spec: Any) -> None:
        limits = {"som.io/2Mi": str(units)}
        container = {"name": "a", "image": "program", "resources": {"limits": limits}}
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"containers": [container], **spec},
        }
        self.kubectl("create", "--filename=-", stdin=json.dumps(manifest))

    def books(self, node: str) -> str:
        """Status and reason of a SomNode's condition BooksPending."""
        found = self.get("somnode", node, '.status.conditions[?(@.type=="BooksPending")]')
        condition = json.loads(found) if found else {"status": "", "reason": ""}
        return f"{condition['status']} {condition['reason']}"

    def _apply_statuses(self, version: str, kind: str, statuses: dict[str, dict[str, Any]]) -> None:
        """In one command, because nodes that are played are not ready for long."""
        objects = [
            {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "status": status}
            for name, status in statuses.items()
        ]
        words = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--subresource=status",
            "--validate=false",
        ]
        self.kubectl(*words, "--filename=-", stdin=_list(objects))

    def _patch_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        patch = json.dumps({"status": status})
        self.kubectl(
            "patch", kind, name, "--subresource=status", "--type=merge", f"--patch={patch}"
        )


def _list(objects: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


@pytest.fixture(scope="module", autouse=True)
def operator(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> collections.abc.Iterator[None]:
    """som-operator runs, as its service account."""
    namespaces = api_server.namespaces
    token = api_server.kubectl("create", "token", "som-operator", f"--namespace={NAMESPACE}")
    admin = namespaces.admin.read_text()
    kubeconfig = tmp_path_factory.mktemp("operator") / "kubeconfig"
    user = f"- name: admin\n  user: {{token: {token.strip()}}}\n"
    kubeconfig.write_text(re.sub(r"- name: admin\n  user: .*\n", lambda _: user, admin))
    program = pathlib.Path(sys.executable).parent / "som-operator"
    options = [f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", "--endpoint=:8080"]
    namespaces.start("som-operator", [program, *options])
    yield
    namespaces.stop("som-operator")


@pytest.fixture
def fleet(api_server: ApiServer, request: pytest.FixtureRequest) -> collections.abc.Iterator[Fleet]:
    name = re.sub("[^a-z]+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    fleet = Fleet(api_server, name)
    yield fleet
    selector = f"--selector=fleet={fleet.name}"
    fleet.kubectl("delete", "node", selector)
    fleet.kubectl("delete", "sompool", fleet.name, "--ignore-not-found", "--timeout=60s")


def test_a_pool_is_ordered_reserved_advertised_and_ready(fleet: Fleet) -> None:
    fleet.join("whole-1")
    fleet.apply("64Gi")
    fleet.reserve("whole-1", "64Gi")
    fleet.kubectl("wait", "--for=condition=Ready", f"sompool/{fleet.name}", "--timeout=60s")
    fleet.until("the capacity", lambda: fleet.units("whole-1") == "32768")
    event = r"Normal +Reserved .* som-operator +full capacity \(64Gi\) on 1 of 1 node\n"
    fleet.until(
        "the pool's event",
        lambda: re.search(event, fleet.kubectl("describe", "sompool", fleet.name)),
    )
    fleet.until("the node's event", lambda: "64Gi reserved" in fleet.kubectl("describe", "node"))


def test_what_kubelets_books_lack_is_told_in_the_somnode(fleet: Fleet) -> None:
    fleet.join("books-1")
    fleet.apply("2Gi")
    fleet.until("the order", lambda: fleet.ordered("books-1") == "2Gi")
    pages = {"pageSize": "2Mi", "total": "2Gi", "pools": "2Gi"}
    fleet.report("books-1", fleet.pool("2Gi"), hugePages=[pages])
    fleet.until("NotCounted", lambda: fleet.books("books-1") == "True NotCounted")
    fleet.until(
        "the node's event",
        lambda: "does not count 2Gi" in fleet.kubectl("describe", "node", "books-1"),
    )
    fleet.count_huge_pages("books-1", "2Gi")
    fleet.until("OfferedTwice", lambda: fleet.books("books-1") == "True OfferedTwice")


def test_kubectl_get_sompools_is_the_golden_table(api_server: ApiServer) -> None:
    fleet = Fleet(api_server, "databases")
    nodes = [f"db-{number}" for number in range(12)]
    fleet.join(*nodes)
    fleet.apply("64Gi")
    try:
        fleet.until("the orders", lambda: len(fleet._all("somnodes").keys() & set(nodes)) == 12)
        message = "no contiguous memory on NUMA node 1"
        ready = {"type": "Ready", "status": "False", "reason": "PartlyReserved", "message": message}
        short = fleet.pool("0", conditions=[ready])
        used, free = fleet.pool("64Gi", allocated="64Gi"), fleet.pool("64Gi")
        pools = dict(zip(nodes, [short, *[used] * 8, *[free] * 3], strict=True))
        fleet.report_all({node: {"pools": [pool]} for node, pool in pools.items()})

        def table() -> str:
            return re.sub(
                r"\d+[sm]\w*$", "<age>", fleet.kubectl("get", "sompools", "databases"), flags=re.M
            )

        fleet.until("the golden table", lambda: table() == GOLDEN)
    finally:
        fleet.kubectl("delete", "node", "--selector=fleet=databases")
        fleet.kubectl("delete", "sompool", "databases", "--timeout=60s")


def test_a_terabyte_of_units_is_one_number_in_the_books_and_one_ticket_in_a_pod(
    fleet: Fleet,
) -> None:
    fleet.join("tera-1")
    fleet.apply("1Ti")
    fleet.reserve("tera-1", "1Ti")
    fleet.until("the capacity", lambda: fleet.units("tera-1") == "524288")
    fleet.play_kubelet("tera-1")
    # A node that is played is tainted after a while.
    there: dict[str, Any] = {
        "nodeSelector": {"fleet": fleet.name},
        "tolerations": [{"operator": "Exists"}],
    }
    fleet.create_pod("tera", units=524288, **there)
    fleet.until("the scheduler", lambda: fleet.get("pod", "tera", ".spec.nodeName") == "tera-1")
    limits = json.loads(fleet.get("pod", "tera", ".spec.containers[0].resources.limits"))
    assert limits == {"som.io/2Mi": "524288", "som.io/ticket": "1"}
    fleet.create_pod("late", units=1, **there)
    fleet.until(
        "the refusal",
        lambda: "Insufficient som.io/2Mi" in fleet.kubectl("describe", "pod", "late"),
    )
    fleet.kubectl("delete", "pod", "tera", "late", "--force")


def test_the_somnode_of_a_deleted_node_goes_with_it(fleet: Fleet) -> None:
    fleet.join("leaves-1")
    fleet.apply("1Gi")
    fleet.reserve("leaves-1", "1Gi")
    fleet.kubectl("delete", "node", "leaves-1")
    fleet.until("its SomNode to go", lambda: not fleet.get("somnode", "leaves-1", ".kind"))
    fleet.until("the pool to notice", lambda: fleet.ready() == "False NoNodes")


def test_a_node_recreated_under_its_name_is_ordered_anew(fleet: Fleet) -> None:
    fleet.join("again-1")
    fleet.apply("1Gi")
    fleet.reserve("again-1", "1Gi")
    fleet.kubectl("delete", "node", "again-1")
    fleet.join("again-1", boot_id="b2")
    uid = fleet.get("node", "again-1", ".metadata.uid")
    path = ".metadata.ownerReferences[*].uid"
    fleet.until("the new owner", lambda: fleet.get("somnode", "again-1", path) == uid)
    assert fleet.units("again-1") == ""
    fleet.reserve("again-1", "1Gi")
    fleet.until("the capacity", lambda: fleet.units("again-1") == "512")


def test_a_deleted_pool_stays_until_every_agent_has_let_go(fleet: Fleet) -> None:
    fleet.join("release-1")
    fleet.apply("1Gi")
    fleet.reserve("release-1", "1Gi")
    fleet.until("the capacity", lambda: fleet.units("release-1") == "512")
    fleet.kubectl("delete", "sompool", fleet.name, "--wait=false")
    fleet.until("the order to go", lambda: fleet.ordered("release-1") == "")
    fleet.report("release-1", fleet.pool("64Mi", allocated="64Mi"))
    fleet.until("what holds it", lambda: "containers hold 64Mi" in _message(fleet))
    assert fleet.units("release-1") == ""
    assert fleet.get("sompool", fleet.name, ".metadata.finalizers[*]") == "som.io/release"
    fleet.report("release-1")
    fleet.until("the pool to go", lambda: not fleet.get("sompool", fleet.name, ".kind"))


def _message(fleet: Fleet) -> str:
    path = '.status.conditions[?(@.type=="Ready")].message'
    return str(fleet.get("sompool", fleet.name, path))


def test_capacity_does_not_fall_below_bound_pods(fleet: Fleet) -> None:
    fleet.join("floor-1")
    fleet.apply("1Gi")
    fleet.reserve("floor-1", "1Gi")
    fleet.until("the capacity", lambda: fleet.units("floor-1") == "512")
    fleet.create_pod("floor", units=100, nodeName="floor-1")
    fleet.report("floor-1", fleet.pool("0"))
    fleet.until("the floor", lambda: fleet.units("floor-1") == "100")
    fleet.kubectl("delete", "pod", "floor", "--force")
    fleet.until("no capacity", lambda: fleet.units("floor-1") == "")


def test_capacity_zeroed_by_kubelet_comes_back(fleet: Fleet) -> None:
    fleet.join("zeroed-1")
    fleet.apply("1Gi")
    fleet.reserve("zeroed-1", "1Gi")
    fleet.until("the capacity", lambda: fleet.units("zeroed-1") == "512")
    fleet._patch_status("node", "zeroed-1", {"capacity": {"som.io/2Mi": "0"}})
    fleet.until("the capacity again", lambda: fleet.units("zeroed-1") == "512")


def test_a_pool_whose_finalizer_was_taken_by_force_leaves_its_nodes(fleet: Fleet) -> None:
    fleet.join("forced-1")
    fleet.apply("1Gi")
    fleet.reserve("forced-1", "1Gi")
    patch = '--patch={"metadata":{"finalizers":null}}'
    fleet.kubectl("delete", "sompool", fleet.name, "--wait=false")
    fleet.kubectl("patch", "sompool", fleet.name, "--type=merge", patch)
    fleet.until("the order to go", lambda: fleet.ordered("forced-1") == "")
