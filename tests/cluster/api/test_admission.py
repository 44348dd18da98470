"""Admission of pods: golden cases, and pods without som that pass untouched.

`golden/admission/<case>.yaml` holds a pod's spec and what becomes of it: `refused` by som with a
message, refused by `kubernetes` itself in its own words, or `becomes` with limits and environment
of each container.
"""

import asyncio
import collections.abc
import json
import pathlib
import random
from typing import Any

import aiohttp
import pytest
import yaml

from cluster.api.conftest import MERGE, NAMESPACE, ApiServer, pod, send

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/admission"
CASES = sorted(GOLDEN.glob("*.yaml"))
PODS = "/api/v1/namespaces/default/pods"
DRY_RUN = f"{PODS}?dryRun=All"


def _som_parts(created: dict[str, Any]) -> dict[str, Any]:
    spec = created["spec"]
    found = {}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        resources = container["resources"]
        assert resources.get("limits") == resources.get("requests")
        parts = {"limits": resources.get("limits"), "env": container.get("env")}
        found[container["name"]] = {name: part for name, part in parts.items() if part}
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
async def test_golden_case(session: aiohttp.ClientSession, case: pathlib.Path) -> None:
    golden = yaml.safe_load(case.read_text())
    status, answer = await send(session, "POST", DRY_RUN, pod(**golden["pod"]))
    if "refused" in golden:
        assert status == 422, answer
        assert answer["message"].partition("denied request: ")[2] == golden["refused"]
        return
    if "kubernetes" in golden:
        assert status == 422, answer
        assert golden["kubernetes"] in answer["message"]
        assert "policy" not in answer["message"]
        return
    assert status == 201, answer
    assert _som_parts(answer) == golden["becomes"]
    again = pod(**answer["spec"])
    assert (await send(session, "POST", DRY_RUN, again))[1]["spec"] == answer["spec"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
async def test_golden_case_as_part_of_a_mirror_pod_is_left_to_its_kubelet_alone(
    session: aiohttp.ClientSession, kubelet: dict[str, Any], case: pathlib.Path
) -> None:
    golden = yaml.safe_load(case.read_text())
    mirror = pod(**golden["pod"], **kubelet["spec"])
    mirror["metadata"].update(kubelet["metadata"])
    _, answer = await send(session, "POST", DRY_RUN, mirror, kubelet="mirroring")
    assert "som-pods" not in json.dumps(answer)
    assert "SOM_" not in json.dumps(answer) or "SOM_" in json.dumps(golden["pod"])
    status, answer = await send(session, "POST", DRY_RUN, mirror)
    assert status == (201 if "becomes" in golden else 422), answer
    assert golden.get("refused", "") in answer.get("message", "")


@pytest.fixture
async def kubelet(
    session: aiohttp.ClientSession,
) -> collections.abc.AsyncIterator[dict[str, Any]]:
    """What a kubelet writes into a mirror pod of its node, which exists."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "mirroring"}}
    status, created = await send(session, "POST", "/api/v1/nodes", node)
    assert status == 201, created
    owner = {"apiVersion": "v1", "kind": "Node", "name": "mirroring", "controller": True}
    yield {
        "spec": {"nodeName": "mirroring", "automountServiceAccountToken": False},
        "metadata": {
            "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{**owner, "uid": created["metadata"]["uid"]}],
        },
    }
    await send(session, "DELETE", "/api/v1/nodes/mirroring")


def _generated(rng: random.Random, name: str) -> dict[str, Any]:
    """A pod without som that the API server accepts, its names close to som's."""
    spec: dict[str, Any] = {
        "containers": [_container(rng, f"c{n}") for n in range(rng.randint(1, 4))]
    }
    if rng.random() < 0.5:
        inits = [_container(rng, f"i{n}") for n in range(rng.randint(1, 3))]
        for container in inits:
            if rng.random() < 0.4:
                container["restartPolicy"] = "Always"
        spec["initContainers"] = inits
    if rng.random() < 0.2:
        spec["volumes"] = [{"name": "som", "emptyDir": {}}]
    created = pod(name, automountServiceAccountToken=False, **spec)
    if rng.random() < 0.5:
        created["metadata"]["labels"] = {"som.io/ticket": "1", "app": "som"}
    if rng.random() < 0.5:
        created["metadata"]["annotations"] = {"som.io/2Mi": "64"}
    return created


def _container(rng: random.Random, name: str) -> dict[str, Any]:
    container: dict[str, Any] = {"name": name, "image": "som"}
    resources: dict[str, dict[str, str]] = {}
    for resource, amount in (
        ("cpu", "100m"), ("memory", "64Mi"), ("ephemeral-storage", "1Gi"),
        ("example.com/som.io", "1"), ("som.io.example.com/2Mi", "2"), ("xsom.io/2Mi", "1"),
    ):  # fmt: skip
        if rng.random() < 0.3:
            resources.setdefault("limits", {})[resource] = amount
            if "/" in resource or rng.random() < 0.5:
                resources.setdefault("requests", {})[resource] = amount
    if rng.random() < 0.2:
        for kind in ("limits", "requests"):
            resources.setdefault(kind, {})["hugepages-2Mi"] = "4Mi"
            resources[kind]["memory"] = "64Mi"
    if resources or rng.random() < 0.3:
        container["resources"] = resources
    if rng.random() < 0.5:
        container["env"] = [{"name": "SOM_BYTES", "value": "1"}, {"name": "X", "value": "y"}]
    return container


def _assert_kept(sent: Any, got: Any, path: str = "") -> None:
    """All that was sent is there, and no list has more."""
    if isinstance(sent, dict):
        assert sent.keys() <= got.keys(), path
        for key, value in sent.items():
            _assert_kept(value, got[key], f"{path}.{key}")
    elif isinstance(sent, list):
        assert len(sent) == len(got), path
        for index, value in enumerate(sent):
            _assert_kept(value, got[index], f"{path}[{index}]")
    else:
        assert sent == got, path


def _assert_untouched(sent: dict[str, Any], got: dict[str, Any]) -> None:
    _assert_kept(sent, got)
    for kind in ("containers", "initContainers"):
        for before, after in zip(
            sent["spec"].get(kind, []), got["spec"].get(kind, []), strict=True
        ):
            assert before.get("env") == after.get("env")
            limits = before.get("resources", {}).get("limits", {})
            assert limits == after["resources"].get("limits", {})


async def _passes(session: aiohttp.ClientSession, sent: dict[str, Any]) -> None:
    status, got = await send(session, "POST", DRY_RUN, sent)
    assert status == 201, got
    _assert_untouched(sent, got)


async def _lives_on(session: aiohttp.ClientSession, sent: dict[str, Any]) -> None:
    """Created in earnest, updated, and given an ephemeral container."""
    path = f"{PODS}/{sent['metadata']['name']}"
    status, got = await send(session, "POST", PODS, sent)
    assert status == 201, got
    change = {"metadata": {"labels": {"changed": "yes"}}}
    status, got = await send(session, "PATCH", path, change, content=MERGE)
    assert status == 200, got
    _assert_untouched(sent, got)
    debugger = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "som"}]}}
    status, got = await send(
        session, "PATCH", f"{path}/ephemeralcontainers", debugger, content=MERGE
    )
    assert status == 200, got
    _assert_untouched(sent, got)
    _assert_kept(debugger, got)
    status, got = await send(session, "DELETE", path, {"gracePeriodSeconds": 0})
    assert status == 200, got


async def test_pod_of_two_thousand_containers_stays_within_the_budget_of_cel(
    session: aiohttp.ClientSession,
) -> None:
    limits = {f"example.com/resource-{number}": "1" for number in range(8)}
    containers = [{"name": f"c{n}", "resources": {"limits": limits}} for n in range(2000)]
    await _passes(session, pod(automountServiceAccountToken=False, containers=containers))


def _asking(count: str, **more: Any) -> list[dict[str, Any]]:
    limits = {"som.io/2Mi": count}
    return [{"name": f"c{n}", "resources": {"limits": limits}, **more} for n in range(800)]


@pytest.mark.parametrize("sidecars", [False, True])
async def test_eight_hundred_containers_with_memory_stay_within_the_budget_of_cel(
    session: aiohttp.ClientSession, sidecars: bool
) -> None:
    spec: dict[str, Any] = {"containers": _asking("1")}
    if sidecars:
        asking = _asking("1", restartPolicy="Always", image="program")
        spec = {"containers": [{"name": "app"}], "initContainers": asking}
    sent = pod(automountServiceAccountToken=False, **spec)
    status, answer = await send(session, "POST", DRY_RUN, sent)
    assert status == 201, answer
    shown = _som_parts(answer)
    assert sum("som.io/ticket" in parts.get("limits", {}) for parts in shown.values()) == 800


async def test_refusal_of_eight_hundred_containers_is_in_words(
    session: aiohttp.ClientSession,
) -> None:
    sent = pod(automountServiceAccountToken=False, containers=_asking("128Mi"))
    status, answer = await send(session, "POST", DRY_RUN, sent)
    assert status == 422, answer
    assert answer["message"].partition("denied request: ")[2] == (
        "containers request som.io/2Mi or som.io/1Gi by size, but these count pages"
    )


async def test_critical_pods_are_admitted_in_the_namespace_of_som_where_they_need_a_quota(
    session: aiohttp.ClientSession,
) -> None:
    spec: dict[str, Any] = {
        "containers": [{"name": "a"}],
        "priorityClassName": "system-node-critical",
    }
    status, answer = await send(session, "POST", DRY_RUN, pod(**spec))
    assert "insufficient quota to match these scopes" in answer["message"], status
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All"
    async with asyncio.timeout(30):
        while True:
            status, _ = await send(session, "POST", path, pod(**spec))
            if status == 201:
                return
            await asyncio.sleep(0.2)


async def test_units_without_a_ticket_are_refused(
    session: aiohttp.ClientSession, api_server: ApiServer
) -> None:
    asking = pod(containers=[{"name": "db", "resources": {"limits": {"som.io/2Mi": 1}}}])
    binding = "mutatingadmissionpolicybinding/som-tickets"
    manifest = api_server.kubectl("get", binding, "--output=json")
    api_server.kubectl("delete", binding)

    async def status_becomes(wanted: int) -> str:
        async with asyncio.timeout(60):
            while True:
                status, answer = await send(session, "POST", DRY_RUN, asking)
                if status == wanted:
                    return str(answer.get("message"))
                await asyncio.sleep(0.1)

    try:
        assert "container db requests som memory, but got no ticket" in await status_becomes(422)
    finally:
        api_server.kubectl("create", "--filename=-", stdin=manifest)
        await status_becomes(201)


async def test_quota_of_a_namespace_counts_units(
    session: aiohttp.ClientSession, api_server: ApiServer
) -> None:
    api_server.kubectl("create", "namespace", "shop")
    hard = "--hard=requests.som.io/2Mi=64,requests.som.io/1Gi=0,requests.som.io/ticket=2"
    api_server.kubectl("create", "quota", "som", "--namespace=shop", hard)
    ready = "jsonpath={.status.hard}"
    api_server.kubectl("wait", f"--for={ready}", "quota/som", "--namespace=shop", "--timeout=60s")
    api_server.kubectl(
        "wait", "--for=create", "serviceaccount/default", "--namespace=shop", "--timeout=60s"
    )

    async def create(name: str, **limits: int) -> str:
        named = {f"som.io/{unit[1:]}": count for unit, count in limits.items()}
        sent = pod(name, containers=[{"name": "db", "resources": {"limits": named}}])
        _, answer = await send(session, "POST", "/api/v1/namespaces/shop/pods", sent)
        return str(answer.get("message", ""))

    assert await create("db-0", _2Mi=48) == ""
    assert await create("db-1", _2Mi=32) == (
        'pods "db-1" is forbidden: exceeded quota: som, requested: requests.som.io/2Mi=32, '
        "used: requests.som.io/2Mi=48, limited: requests.som.io/2Mi=64"
    )
    assert "exceeded quota" in await create("db-2", _1Gi=1)
    assert await create("db-3", _2Mi=1) == ""
    assert "requested: requests.som.io/ticket=1" in await create("db-4", _2Mi=1)
    api_server.kubectl("delete", "namespace", "shop", "--wait=false")


async def test_two_thousand_pods_without_som_pass_untouched(session: aiohttp.ClientSession) -> None:
    rng = random.Random(2)
    pods = [_generated(rng, f"p{number}") for number in range(2000)]
    at_once = asyncio.Semaphore(32)

    async def judge(number: int, sent: dict[str, Any]) -> None:
        async with at_once:
            await (_lives_on if number % 10 == 0 else _passes)(session, sent)

    async with asyncio.TaskGroup() as group:
        for number, sent in enumerate(pods):
            group.create_task(judge(number, sent))
