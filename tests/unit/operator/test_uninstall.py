"""Uninstalling gives all memory back, or changes nothing and says who is in the way."""

import argparse
import asyncio
import collections.abc
import contextlib
import os
import pathlib
import signal
from typing import Any

import pytest
from aiohttp import web

from fakes import api_server
from fakes.api_server import FakeApiServer
from fakes.object_store import Place
from som_api import VERSION, logs
from som_api.plan import standing
from som_api.run import clock
from som_operator import main, uninstall
from som_operator.loading import pods
from som_operator.loading.driver import Driver
from unit.operator.test_main import kubeconfig
from waiting import until

SOM = "som.io/v1alpha1"
DEPLOYMENT = Place("apps/v1", "deployments", "som-system", "som-operator")
NODE = Place("v1", "nodes", name="n")
POOL_PLACE = Place(SOM, "sompools", name="p")
SOMNODE = Place(SOM, "somnodes", name="n")
UNLOADS = Place("v1", "pods", "som-system", "som-driver-n")
DRIVER_POD: dict[str, Any] = {
    "metadata": {"namespace": "som-system", "labels": dict(pods.LABELS)},
    "spec": {"containers": [{"name": "driver", "image": "driver:1"}]},
}
SOURCE = {"hugeTLB": {"pageSize": "2Mi"}}
POOL = {"name": "p", "generation": 1, "unit": "2Mi", "capacity": "64Mi", "source": SOURCE}


@pytest.fixture
async def server() -> collections.abc.AsyncIterator[FakeApiServer]:
    """A cluster with one pool on one node, the operator running."""
    async with FakeApiServer() as server:
        server.put("apps/v1", "deployments", _named("som-operator", "som-system", replicas=2))
        server.put("v1", "nodes", _node())
        pool = _named("p", unit="2Mi", capacity="64Mi", source=SOURCE) | {
            "status": {"capacity": "64Mi"}
        }
        pool["metadata"]["finalizers"] = ["example.com/theirs", standing.FINALIZER]
        server.put(SOM, "sompools", pool)
        server.put(SOM, "somnodes", _named("n", pools=[POOL]) | {"status": _status(1, "0")})
        yield server


def _named(name: str, namespace: str = "", **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    return {"metadata": metadata | ({"namespace": namespace} if namespace else {}), "spec": spec}


def _node(*, ready: str = "True") -> dict[str, Any]:
    capacity = {"cpu": "2", "som.io/2Mi": "32"}
    conditions = [{"type": "Ready", "status": ready}]
    return _named("n") | {"status": {"capacity": capacity, "conditions": conditions}}


def _status(generation: int, allocated: str) -> dict[str, Any]:
    pool = {"capacity": "64Mi", "allocated": allocated, "free": "0"}
    named = {"name": "p", "generation": 1, "unit": "2Mi"}
    return {"observedGeneration": generation, "pools": [named | pool]}


def _pod(units: str) -> dict[str, Any]:
    container = {"name": "a", "resources": {"limits": {"som.io/2Mi": units}}}
    return _named("db-0", "shop", nodeName="n", containers=[container])


def _get(server: FakeApiServer, place: Place) -> Any:
    found = server.store.get(place)
    assert found is not None
    return found


def _unchanged(server: FakeApiServer) -> bool:
    """Whether the operator runs and will restore whatever was begun."""
    return bool(_get(server, DEPLOYMENT)["spec"]["replicas"] == 2) and bool(
        standing.FINALIZER in _get(server, POOL_PLACE)["metadata"]["finalizers"]
    )


async def _run(
    server: FakeApiServer, *, timeout_s: float = 60, release: str = "", unloads: bool = False
) -> list[str]:
    said: list[str] = []
    async with server.client() as client:
        driver = Driver(client, DRIVER_POD, clock.SystemClock()) if unloads else None
        await uninstall.Uninstall(
            client,
            namespace="som-system",
            timeout_s=timeout_s,
            release=release,
            driver=driver,
            say=said.append,
            poll_s=0.01,
        ).run()
    return said


def _helm_installed(server: FakeApiServer, *, status: str) -> None:
    """What helm leaves in a cluster: its record, and its mark on the Deployment."""
    record = _named("sh.helm.release.v1.som.v3", "som-system")
    record["metadata"]["labels"] = {"owner": "helm", "name": "som", "status": status}
    server.put("v1", "secrets", record)
    deployment = _get(server, DEPLOYMENT)
    deployment["metadata"]["annotations"] = {"meta.helm.sh/release-name": "som"}
    server.put(DEPLOYMENT.api_version, DEPLOYMENT.plural, deployment)


def _annotate_somnode(server: FakeApiServer) -> None:
    somnode = _get(server, SOMNODE)
    somnode["metadata"]["annotations"] = {"som.io/skip-release": "true"}
    server.put(SOMNODE.api_version, SOMNODE.plural, somnode)


def _make_unreadable(server: FakeApiServer) -> None:
    somnode = _get(server, SOMNODE)
    somnode["status"]["pools"][0]["driver"] = "OfALaterVersion"
    server.put(SOMNODE.api_version, SOMNODE.plural, somnode)


@contextlib.asynccontextmanager
async def _agent(server: FakeApiServer) -> collections.abc.AsyncIterator[None]:
    """An agent that gives its memory back once it is told so."""

    async def obey() -> None:
        while True:
            somnode = _get(server, SOMNODE)
            if not somnode["spec"]["pools"]:
                break
            await asyncio.sleep(0.005)
        assert "som.io/2Mi" not in _get(server, NODE)["status"]["capacity"]
        somnode["status"] = {"observedGeneration": somnode["metadata"]["generation"], "pools": []}
        server.put(SOM, "somnodes", somnode)

    task = asyncio.create_task(obey())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_uninstall_gives_back_memory_and_leaves_the_pools(server: FakeApiServer) -> None:
    async with _agent(server):
        said = await _run(server)
    assert said[-1] == "all som memory is given back"
    assert _get(server, NODE)["status"]["capacity"] == {"cpu": "2"}
    assert _get(server, DEPLOYMENT)["spec"]["replicas"] == 0
    assert server.store.get(SOMNODE) is None
    pool = _get(server, POOL_PLACE)
    assert pool["metadata"]["finalizers"] == ["example.com/theirs"]
    assert "status" not in pool
    assert pool["spec"]["capacity"] == "64Mi"


def _has_driver(server: FakeApiServer, reason: str) -> None:
    """som.ko is loaded on the node; the operator's condition says who has loaded it."""
    node = _get(server, NODE)
    node["status"]["nodeInfo"] = {"bootID": "b1"}
    server.put("v1", "nodes", node)
    somnode = _get(server, SOMNODE)
    loaded = {"type": "DriverLoaded", "status": "True", "reason": reason, "message": ""}
    somnode["spec"]["pools"] = []
    somnode["status"] = {
        "observedGeneration": somnode["metadata"]["generation"] + 1,
        "bootID": "b1",
        "module": {"version": VERSION, "srcVersion": "S"},
        "conditions": [loaded],
    }
    server.put(SOM, "somnodes", somnode)


async def _unloaded(server: FakeApiServer) -> None:
    """kubelet runs the pod that unloads, and the agent sees what it did."""
    await until(lambda: server.store.get(UNLOADS) is not None)
    pod = _get(server, UNLOADS)
    assert pod["spec"]["containers"][0]["args"] == ["unload"]
    pod["status"] = {"phase": "Succeeded"}
    pod["metadata"]["creationTimestamp"] = "2026-11-28T12:00:00Z"
    server.put("v1", "pods", pod)
    somnode = _get(server, SOMNODE)
    del somnode["status"]["module"]
    server.put(SOM, "somnodes", somnode)


async def test_the_driver_that_som_has_loaded_is_unloaded(server: FakeApiServer) -> None:
    _has_driver(server, "Loaded")
    said, _ = await asyncio.gather(_run(server, unloads=True), _unloaded(server))
    assert "waiting for the nodes to unload som.ko: n" in said
    assert server.store.get(SOMNODE) is None


async def test_the_driver_that_others_have_loaded_stays(server: FakeApiServer) -> None:
    _has_driver(server, "LoadedByOthers")
    await _run(server, unloads=True)
    assert server.store.get(UNLOADS) is None


async def test_uninstall_is_refused_while_a_pod_holds_memory(server: FakeApiServer) -> None:
    server.put("v1", "pods", _pod("4"))
    with pytest.raises(uninstall.NotUninstalled) as caught:
        await _run(server)
    assert str(caught.value) == (
        "som memory is in use; delete these first:\n  pod shop/db-0 on node n"
    )
    assert "patch" not in server.verbs()


async def test_container_of_a_pod_deleted_by_force_counts(server: FakeApiServer) -> None:
    server.put(SOM, "somnodes", _named("n", pools=[POOL]) | {"status": _status(1, "8Mi")})
    with pytest.raises(uninstall.NotUninstalled, match="containers on node n, with 8Mi"):
        await _run(server)


async def test_pods_that_have_ended_or_hold_nothing_do_not_count(server: FakeApiServer) -> None:
    server.put("v1", "pods", _pod("4") | {"status": {"phase": "Succeeded"}})
    async with _agent(server):
        assert "all som memory is given back" in await _run(server)


async def test_pod_that_comes_in_between_stops_it_and_the_operator_runs_again(
    server: FakeApiServer,
) -> None:
    async def pod_comes_after_the_first_look(request: Any) -> None:
        if request.method == "PATCH":
            server.put("v1", "pods", _pod("4"))

    server.failure = pod_comes_after_the_first_look
    with pytest.raises(uninstall.NotUninstalled, match="pod shop/db-0"):
        await _run(server)
    assert _unchanged(server)
    assert _get(server, SOMNODE)["spec"]["pools"] == [POOL]


async def test_node_that_does_not_answer_is_named_with_the_cure(server: FakeApiServer) -> None:
    server.put("v1", "nodes", _node(ready="Unknown"))
    with pytest.raises(
        uninstall.NotUninstalled, match=r"give their memory back: n \(kubelet is not ready"
    ):
        await _run(server, timeout_s=0.05)
    assert _unchanged(server)


async def test_node_that_is_gone_has_released_its_memory(server: FakeApiServer) -> None:
    server.remove("v1", "nodes", "n")
    assert "all som memory is given back" in await _run(server)


async def test_node_that_does_not_answer_can_be_skipped(server: FakeApiServer) -> None:
    server.put("v1", "nodes", _node(ready="Unknown"))
    _annotate_somnode(server)
    assert "all som memory is given back" in await _run(server)


async def test_node_without_an_agent_is_named_and_can_be_skipped(server: FakeApiServer) -> None:
    with pytest.raises(
        uninstall.NotUninstalled, match=r"n \(no agent is ready there: .*skip-release"
    ):
        await _run(server, timeout_s=0.05)
    assert _unchanged(server)
    _annotate_somnode(server)
    assert "all som memory is given back" in await _run(server)


async def test_somnode_that_cannot_be_read_is_named_and_can_be_skipped(
    server: FakeApiServer,
) -> None:
    _make_unreadable(server)
    with pytest.raises(
        uninstall.NotUninstalled, match=r"n \(its SomNode cannot be read: .*skip-release"
    ):
        await _run(server, timeout_s=0.05)
    assert _unchanged(server)
    _annotate_somnode(server)
    assert "all som memory is given back" in await _run(server)


async def test_crds_that_are_deleted_already_hold_nothing(server: FakeApiServer) -> None:
    async def no_crds(request: web.Request) -> web.StreamResponse | None:
        if not request.path.startswith("/apis/som.io/"):
            return None
        return web.Response(status=404, text="404 page not found")

    server.failure = no_crds
    assert "all som memory is given back" in await _run(server)


async def test_an_operator_that_is_gone_need_not_stop(server: FakeApiServer) -> None:
    server.remove("v1", "nodes", "n")
    server.remove("apps/v1", "deployments", "som-operator", namespace="som-system")
    assert "all som memory is given back" in await _run(server)


async def test_rendered_chart_that_is_applied_as_text_uninstalls_nothing(
    server: FakeApiServer,
) -> None:
    (said,) = await _run(server, release="som")
    assert said.startswith("nothing is done: helm did not install this")
    assert server.verbs() == ["list", "get"]


async def test_chart_applied_as_text_over_helms_release_uninstalls_nothing(
    server: FakeApiServer,
) -> None:
    _helm_installed(server, status="deployed")
    with pytest.raises(uninstall.NotUninstalled, match=r"(?s)no Secret .* without --release"):
        await _run(server, release="som")
    assert "patch" not in server.verbs()


async def test_helm_uninstall_uninstalls(server: FakeApiServer) -> None:
    _helm_installed(server, status="uninstalling")
    async with _agent(server):
        said = await _run(server, release="som")
    assert said[-1] == "all som memory is given back"


async def test_operator_that_a_killed_run_left_stopped_is_started_by_the_next_refusal(
    server: FakeApiServer,
) -> None:
    deployment = _get(server, DEPLOYMENT)
    deployment["spec"]["replicas"] = 0
    server.put(DEPLOYMENT.api_version, DEPLOYMENT.plural, deployment)
    with pytest.raises(uninstall.NotUninstalled, match="waited"):
        await _run(server, timeout_s=0.05)
    assert _unchanged(server)


async def test_operator_is_started_again_when_the_api_server_is_back(
    server: FakeApiServer,
) -> None:
    scaled: list[int] = []

    async def away_for_a_while(request: web.Request) -> web.StreamResponse | None:
        if request.path.endswith("/scale"):
            scaled.append(len(scaled))
            if 1 <= len(scaled) - 1 <= 3:
                return api_server.status(503, "ServiceUnavailable", "etcd has no leader")
        return None

    server.failure = away_for_a_while
    with pytest.raises(uninstall.NotUninstalled, match="waited"):
        await _run(server, timeout_s=0.05)
    assert len(scaled) == 5
    assert _unchanged(server)


async def test_one_deadline_is_for_the_operator_and_the_nodes_together(
    server: FakeApiServer,
) -> None:
    timeout_s = 0.2

    async def operator_stops_at_the_deadline(request: web.Request) -> None:
        if "labelSelector" in request.query:
            await asyncio.sleep(timeout_s)

    server.failure = operator_stops_at_the_deadline
    with pytest.raises(uninstall.NotUninstalled, match="give their memory back: n"):
        await _run(server, timeout_s=timeout_s)
    looks = [request for request in server.requests if request.path.endswith("/somnodes")]
    assert len(looks) == len(["in use?", "in use still?", "to order nothing", "given back?"])


async def test_run_that_is_told_to_stop_starts_the_operator_again(
    server: FakeApiServer, tmp_path: pathlib.Path
) -> None:
    told = ["--kubeconfig", str(kubeconfig(tmp_path, server.url)), "uninstall"]
    running = asyncio.create_task(main._run(main.parser().parse_args(told)))
    try:
        await until(lambda: _get(server, DEPLOYMENT)["spec"]["replicas"] == 0)
        await until(lambda: "som.io/2Mi" not in _get(server, NODE)["status"]["capacity"])
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(asyncio.CancelledError):
            await running
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
    assert _unchanged(server)


def test_run_that_was_told_to_stop_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stopped(_: argparse.Namespace) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(main, "_run", stopped)
    monkeypatch.setattr(logs, "configure", lambda *, level, format: None)
    with pytest.raises(SystemExit) as ended:
        main.main(["uninstall"])
    assert ended.value.code == 128 + signal.SIGTERM
