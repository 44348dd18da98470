"""`som_api.kube` against the real API server."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cluster.harness.certificates import NODE
from cluster.harness.cluster import Cluster
from fakes import api_server_contract
from som_api.v1alpha1 import crd

TESTS = pathlib.Path(__file__).parents[1]


def speaker(command: str, argument: str) -> list[str]:
    """The command line of `cluster.speaker`, to be run inside the cluster's network."""
    python = ["env", f"PYTHONPATH={TESTS}", sys.executable, "-m", "cluster.speaker"]
    return [*python, command, argument]


class Follower:
    """A reflector of the Nodes with a label, in a process inside the cluster's network."""

    def __init__(self, output: pathlib.Path) -> None:
        self._output = output

    @property
    def changes(self) -> list[list[str | None]]:
        return [json.loads(line) for line in self._output.read_text().splitlines()]


@contextlib.contextmanager
def following(cluster: Cluster, label: str, folder: pathlib.Path) -> Iterator[Follower]:
    output = folder / "changes"
    with output.open("w") as file:
        process = subprocess.Popen(cluster.namespaces.enter(speaker("follow", label)), stdout=file)
    try:
        yield Follower(output)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("check", api_server_contract.CHECKS, ids=lambda check: check.__name__)
def test_the_real_server_keeps_the_contract(
    check: api_server_contract.Check, cluster: Cluster
) -> None:
    if check is api_server_contract.a_watch_of_a_forgotten_version_is_gone:
        _restart_api_server(cluster)
    cluster.namespaces.run(speaker("contract", check.__name__))


def test_a_watch_outlives_the_api_server(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    cluster.kubectl("create", "--filename=-", stdin=_node("stays", "1"))
    cluster.kubectl("create", "--filename=-", stdin=_node("goes", "1"))
    with following(cluster, "followed", tmp_path) as follower:
        cluster.wait_for("the first list", lambda: len(follower.changes) == 2)
        _restart_api_server(cluster)
        cluster.kubectl("delete", "node/goes")
        cluster.kubectl("label", "node/stays", "followed=2", "--overwrite")
        cluster.wait_for(
            "the changes to arrive",
            lambda: (
                {("goes", "1", None), ("stays", "1", "2")}
                == {tuple(change) for change in follower.changes[2:]}
            ),
            # A server that was away for long is asked again within a minute.
            deadline_s=120,
        )
    cluster.kubectl("delete", "node/stays")


@pytest.fixture
def kinds(cluster: Cluster) -> Iterator[None]:
    """SomPool and SomNode are served, and no operator acts on them."""
    if "som.io" in cluster.kubectl("get", "crd", "--output=name"):
        pytest.skip("som is installed in this cluster; run this file before what installs it")
    names = [f"crd/{kind.plural}.som.io" for kind in crd.KINDS]
    cluster.apply(*(crd.definition(kind) for kind in crd.KINDS))
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=60s")
    yield
    cluster.kubectl("delete", *names)


@pytest.mark.usefixtures("kinds")
def test_a_status_takes_requests_and_events_only_when_it_changed(cluster: Cluster) -> None:
    cluster.apply(POOL)
    answers = cluster.namespaces.run(speaker("publish", "published")).stdout
    assert answers.split() == ["true", "false", "true"]
    description = cluster.kubectl("describe", "sompool/published")
    assert "Reserved" in description.partition("Events:")[2]
    assert "som-test" in description.partition("Events:")[2]
    cluster.kubectl("delete", "sompool/published")


@pytest.mark.usefixtures("kinds")
def test_an_agent_hears_its_orders_and_reports(cluster: Cluster) -> None:
    cluster.apply(SOMNODE)
    cluster.namespaces.run(speaker("report", "reporting"))
    status = cluster.get("somnodes", "reporting")["status"]
    (pool,) = status["pools"]
    assert (pool["capacity"], pool["free"], pool["driver"]) == ("64Mi", "64Mi", "HugeTLBFS")
    assert status["observedGeneration"] == 1
    for condition in (*status["conditions"], *pool["conditions"]):
        assert condition["lastTransitionTime"]
    cluster.kubectl("delete", "somnode/reporting")


def test_describe_shows_events_of_a_node(cluster: Cluster) -> None:
    cluster.namespaces.run(speaker("events", NODE))
    shown = cluster.kubectl("describe", f"node/{NODE}").partition("Events:")[2]
    assert "Warning  LeaseDamaged" in shown
    assert shown.count("LeaseHeld") == 11
    assert "(combined from similar events)" in shown


def _restart_api_server(cluster: Cluster) -> None:
    """It forgets what was before its start: earlier versions cannot be watched any more."""
    cluster.stop_api_server()
    cluster.start_api_server()


def _node(name: str, value: str) -> str:
    metadata = {"name": name, "labels": {"followed": value}}
    return json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": metadata})


SOMNODE = """
apiVersion: som.io/v1alpha1
kind: SomNode
metadata: {name: reporting}
spec:
  pools:
  - {name: databases, generation: 3, unit: 2Mi, capacity: 64Mi, source: {hugeTLB: {pageSize: 2Mi}}}
"""

POOL = """
apiVersion: som.io/v1alpha1
kind: SomPool
metadata: {name: published}
spec:
  unit: 2Mi
  capacity: 64Mi
  source: {hugeTLB: {pageSize: 2Mi}}
"""
