"""What som's own components may do, and what the policies keep from them and from others."""

import asyncio
import collections.abc
from typing import Any

import aiohttp
import pytest
import yaml

import sompools
from cluster.api.conftest import APPLY, MERGE, NAMESPACE, ApiServer, send
from som_operator.loading import pods

NODE = "/api/v1/nodes/n1"
SOMNODES = "/apis/som.io/v1alpha1/somnodes"
POOLS = "/apis/som.io/v1alpha1/sompools"
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses?dryRun=All"


def test_every_object_of_the_chart_is_valid(api_server: ApiServer) -> None:
    words = ["apply", "--server-side", "--dry-run=server", "--force-conflicts", "--filename=-"]
    applied = api_server.kubectl(*words, stdin=api_server.chart())
    assert "job.batch/som-uninstall" in applied
    assert "pod/som-test" in applied


@pytest.fixture
async def node(session: aiohttp.ClientSession) -> collections.abc.AsyncIterator[None]:
    """A Node with a status, and SomNodes of two nodes."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"a": "b"}}}
    await _must(send(session, "POST", "/api/v1/nodes", body))
    status = {"capacity": {"cpu": "2", "example.com/gpu": "1"}, "allocatable": {"cpu": "2"}}
    await _must(send(session, "PATCH", f"{NODE}/status", {"status": status}, content=MERGE))
    for name in ("n1", "n2"):
        somnode = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "metadata": {"name": name}}
        await _must(send(session, "POST", SOMNODES, somnode, user="som-operator"))
    yield
    for path in (NODE, f"{SOMNODES}/n1", f"{SOMNODES}/n2"):
        await _must(send(session, "DELETE", path))


async def _must(sending: collections.abc.Awaitable[tuple[int, Any]]) -> Any:
    status, answer = await sending
    assert status in (200, 201), answer
    return answer


async def _operator_patches(session: aiohttp.ClientSession, change: dict[str, Any]) -> str:
    """What the API server says to the operator's change of a Node's status."""
    path = f"{NODE}/status"
    status, answer = await send(session, "PATCH", path, change, user="som-operator", content=MERGE)
    return "" if status == 200 else str(answer["message"]).partition("denied request: ")[2]


@pytest.mark.usefixtures("node")
async def test_operator_advertises_and_withdraws_units(session: aiohttp.ClientSession) -> None:
    for capacity in ({"som.io/2Mi": "512", "som.io/1Gi": "4"}, {"som.io/2Mi": None}):
        assert await _operator_patches(session, {"status": {"capacity": capacity}}) == ""
    answer = await _must(send(session, "GET", NODE))
    assert answer["status"]["capacity"] == {"cpu": "2", "example.com/gpu": "1", "som.io/1Gi": "4"}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"status": {"capacity": {"cpu": "3"}}}, "som.io/2Mi and som.io/1Gi only"),
        ({"status": {"capacity": {"som.io/ticket": "3"}}}, "som.io/2Mi and som.io/1Gi only"),
        ({"status": {"capacity": {"example.com/gpu": None}}}, "som.io/2Mi and som.io/1Gi only"),
        ({"status": {"capacity": None}}, "som.io/2Mi and som.io/1Gi only"),
        ({"status": {"allocatable": {"som.io/2Mi": "3"}}}, "capacity only"),
        ({"status": {"phase": "Running"}}, "capacity only"),
        ({"metadata": {"labels": {"a": "c"}}}, "not change the metadata"),
        ({"metadata": {"annotations": {"x": "y"}}}, "not change the metadata"),
    ],
    ids=str,
)
async def test_operator_may_change_nothing_else(
    session: aiohttp.ClientSession, change: dict[str, Any], refusal: str
) -> None:
    assert refusal in await _operator_patches(session, change)


@pytest.mark.usefixtures("node")
async def test_operator_may_not_write_nodes_beside_their_status(
    session: aiohttp.ClientSession,
) -> None:
    change = {"spec": {"unschedulable": True}}
    status, answer = await send(session, "PATCH", NODE, change, user="som-operator", content=MERGE)
    assert status == 403, answer


@pytest.mark.usefixtures("node")
async def test_others_write_node_status_as_before(session: aiohttp.ClientSession) -> None:
    change = {"status": {"capacity": {"cpu": "3"}, "allocatable": {"cpu": "3"}}}
    await _must(send(session, "PATCH", f"{NODE}/status", change, content=MERGE))


async def _agent_reports(session: aiohttp.ClientSession, *, on: str, token_of: str) -> str:
    report = {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomNode",
        "metadata": {"name": on},
        "status": {"bootID": "b"},
    }
    path = f"{SOMNODES}/{on}/status?fieldManager=som-agent"
    sending = send(session, "PATCH", path, report, user="som-agent", node=token_of, content=APPLY)
    status, answer = await sending
    return "" if status == 200 else str(answer["message"]).partition("denied request: ")[2]


@pytest.mark.usefixtures("node")
async def test_agent_reports_on_its_own_node(session: aiohttp.ClientSession) -> None:
    assert await _agent_reports(session, on="n1", token_of="n1") == ""


@pytest.mark.usefixtures("node")
async def test_the_operators_condition_stands_beside_the_agents(
    session: aiohttp.ClientSession,
) -> None:
    def conditions(kind: str) -> dict[str, Any]:
        found = {"type": kind, "status": "True", "reason": "R", "message": ""}
        return {
            "apiVersion": "som.io/v1alpha1",
            "kind": "SomNode",
            "metadata": {"name": "n1"},
            "status": {"conditions": [found]},
        }

    path = f"{SOMNODES}/n1/status?force=true&fieldManager="
    for user, kind in (
        ("som-agent", "Ready"),
        ("som-operator", "BooksPending"),
        ("som-agent", "Degraded"),
    ):
        sending = send(
            session, "PATCH", path + user, conditions(kind), user=user, node="n1", content=APPLY
        )
        await _must(sending)
    answer = await _must(send(session, "GET", f"{SOMNODES}/n1"))
    # An agent's own condition that it no longer applies goes, and no other does.
    assert {c["type"] for c in answer["status"]["conditions"]} == {"BooksPending", "Degraded"}


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(("token_of", "shown"), [("n2", "n2"), ("", "(none)")])
async def test_agent_may_not_report_on_another_node(
    session: aiohttp.ClientSession, token_of: str, shown: str
) -> None:
    refusal = await _agent_reports(session, on="n1", token_of=token_of)
    assert refusal == f"the agent of node {shown} may not write SomNode n1"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", f"{SOMNODES}/n1"),
        ("DELETE", f"{SOMNODES}/n1"),
        ("PATCH", f"{NODE}/status"),
        ("GET", NODE),
        ("GET", "/apis/som.io/v1alpha1/sompools"),
        ("GET", "/api/v1/secrets"),
    ],
)
async def test_agent_has_no_other_rights(
    session: aiohttp.ClientSession, method: str, path: str
) -> None:
    body: dict[str, Any] | None = {} if method == "PATCH" else None
    status, _ = await send(session, method, path, body, user="som-agent", node="n1", content=MERGE)
    assert status == 403


async def test_operator_is_told_that_a_pool_is_gone(session: aiohttp.ClientSession) -> None:
    status, answer = await send(session, "GET", f"{POOLS}/gone", user="som-operator")
    assert (status, answer["reason"]) == (404, "NotFound")


def _event(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "news", "namespace": namespace},
        "involvedObject": {"kind": "Node", "name": "n1"},
    }


@pytest.mark.parametrize("user", ["som-agent", "som-operator"])
async def test_events_are_written_beside_objects_of_the_cluster_only(
    session: aiohttp.ClientSession, user: str
) -> None:
    answers = {}
    for namespace in ("default", "kube-system", NAMESPACE):
        path = f"/api/v1/namespaces/{namespace}/events?dryRun=All"
        answers[namespace], _ = await send(session, "POST", path, _event(namespace), user=user)
    assert answers == {"default": 201, "kube-system": 403, NAMESPACE: 403}


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"metadata": {"finalizers": ["som.io/release", "theirs.io/x"]}}, ""),
        ({"metadata": {"finalizers": []}}, "its own finalizer only"),
        ({"metadata": {"labels": {"a": "b"}}}, "its own finalizer only"),
        ({"metadata": {"annotations": {"a": "b"}}}, "its own finalizer only"),
        ({"spec": {"capacity": "128Gi"}}, "not change what SomPools say"),
        ({"spec": {"paused": True}}, "not change what SomPools say"),
    ],
    ids=str,
)
@pytest.mark.parametrize("user", ["som-operator", "som-uninstall"])
async def test_of_a_pool_ours_change_the_finalizer_only(
    session: aiohttp.ClientSession,
    pool: str,
    user: str,
    change: dict[str, Any],
    refusal: str,
) -> None:
    path = f"{pool}?dryRun=All"
    status, answer = await send(session, "PATCH", path, change, user=user, content=MERGE)
    assert status == (422 if refusal else 200), answer
    assert refusal in answer.get("message", "")
    done = {"status": {"capacity": "64Gi"}}
    await _must(send(session, "PATCH", f"{pool}/status", done, user=user, content=MERGE))


@pytest.fixture
async def pool(session: aiohttp.ClientSession) -> collections.abc.AsyncIterator[str]:
    """The path of a SomPool with a finalizer of somebody else."""
    manifest = sompools.Example("", sompools.spec(), name="rights").manifest
    manifest["metadata"]["finalizers"] = ["theirs.io/x"]
    await _must(send(session, "POST", POOLS, manifest))
    path = f"{POOLS}/rights"
    yield path
    await _must(send(session, "PATCH", path, {"metadata": {"finalizers": []}}, content=MERGE))
    await _must(send(session, "DELETE", path))


@pytest.mark.parametrize(
    ("role", "may_change"),
    [
        ("view", False),
        ("edit", False),
        ("admin", False),
        ("som-view", False),
        ("som-pool-admin", True),
    ],
)
async def test_who_sees_the_cluster_sees_pools_and_only_a_pool_admin_changes_them(
    session: aiohttp.ClientSession, api_server: ApiServer, role: str, may_change: bool
) -> None:
    # Somebody else each time: a binding that was deleted may still be in force for a moment.
    alice = f"alice-{role}"
    binding = f"clusterrolebinding/person-{role}"
    api_server.kubectl("create", *binding.split("/"), f"--clusterrole={role}", f"--user={alice}")
    try:
        async with asyncio.timeout(30):
            for path in (POOLS, SOMNODES):
                while True:
                    status, _ = await send(session, "GET", path, person=alice)
                    if status == 200:
                        break
                    await asyncio.sleep(0.1)
        manifest = sompools.Example("", sompools.spec(), name="alices").manifest
        path = f"{POOLS}?dryRun=All"
        status, _ = await send(session, "POST", path, manifest, person=alice)
        assert status == (201 if may_change else 403)
        somnode = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "metadata": {"name": "n1"}}
        status, _ = await send(session, "POST", SOMNODES, somnode, person=alice)
        assert status == 403
    finally:
        api_server.kubectl("delete", binding)


@pytest.mark.parametrize("taken", ["som.io/2Mi", "som.io/1Gi", "som.io/ticket"])
async def test_no_deviceclass_takes_som_over(session: aiohttp.ClientSession, taken: str) -> None:
    status, answer = await send(session, "POST", CLASSES, _device_class(extendedResourceName=taken))
    assert status == 422
    assert "som.io/ resources belong to som; use a name in a domain" in answer["message"]


@pytest.mark.parametrize("spec", [{}, {"extendedResourceName": "example.com/gpu"}])
async def test_other_deviceclasses_are_left_alone(
    session: aiohttp.ClientSession, spec: dict[str, Any]
) -> None:
    await _must(send(session, "POST", CLASSES, _device_class(**spec)))


def _device_class(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": "mine"},
        "spec": spec,
    }


PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@pytest.fixture
async def driver_pod(session: aiohttp.ClientSession) -> dict[str, Any]:
    """What the operator makes of the pod of the chart."""
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/som-driver"
    template = yaml.safe_load((await _must(send(session, "GET", path)))["data"]["pod.yaml"])
    made = pods.make(template, node="n1", somnode_uid="u", task="load", boot_id="b", attempt=1)
    # There is no kubelet; nor is there the SomNode whose end would be the pod's.
    del made["metadata"]["ownerReferences"]
    return made


async def _operator_makes(session: aiohttp.ClientSession, made: dict[str, Any]) -> str:
    """What the API server says to a pod of the operator's."""
    status, answer = await send(session, "POST", f"{PODS}?dryRun=All", made, user="som-operator")
    return "" if status == 201 else str(answer["message"]).partition("denied request: ")[2]


async def test_operator_makes_and_deletes_driver_pods(
    session: aiohttp.ClientSession, driver_pod: dict[str, Any]
) -> None:
    made = await _must(send(session, "POST", PODS, driver_pod, user="som-operator"))
    assert pods.decode(made) == pods.Pod(
        made["metadata"]["uid"], "n1", "load", pods.image(made), "b", 1
    )
    path = f"{PODS}/som-driver-n1"
    for uid, expected in (("another", 409), (made["metadata"]["uid"], 200)):
        body = {"preconditions": {"uid": uid}, "gracePeriodSeconds": 0}
        status, answer = await send(session, "DELETE", path, body, user="som-operator")
        assert status == expected, answer


async def test_operator_makes_no_other_pod(
    session: aiohttp.ClientSession, driver_pod: dict[str, Any]
) -> None:
    assert await _operator_makes(session, driver_pod) == ""
    driver_pod["metadata"]["name"] = "som-agent-x"
    assert "only pods whose names" in await _operator_makes(session, driver_pod)
    driver_pod["metadata"]["name"] = "som-driver-n1"
    driver_pod["spec"]["containers"][0]["command"] = ["sh"]
    assert "only the driver's image" in await _operator_makes(session, driver_pod)
    elsewhere = "/api/v1/namespaces/kube-system/pods?dryRun=All"
    status, _ = await send(session, "POST", elsewhere, driver_pod, user="som-operator")
    assert status == 403
