"""The API server is away for a minute; pods end, restart and run on meanwhile, kubelet restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods, requests

ZEROED, ONES = "0", "0x1111111111111111"
AWAY_S = 60
WINDOW_S = 30
MOST_REQUESTS = 10
"""Of one client within the window, while its requests fail."""


@pytest.fixture(scope="module")
def outage(clean: Cluster) -> Iterator[tuple[float, float]]:
    """When the API server went and when it was back; what happened meanwhile is told here."""
    leaving = pods.pod("leaves", pods.container("fill", ONES, "endure", units=64), grace_s=10)
    crashing = pods.container("check", ZEROED, "fill", ONES, "hold", units=32)
    clean.apply(
        pods.pod("stays", pods.container("fill", ONES, "hold", units=64)),
        pods.pod("crashes", crashing),
        leaving,
    )
    pods.wait_output(clean, "stays", "hold")
    pods.wait_output(clean, "crashes", "hold")
    pods.wait_output(clean, "leaves", "endure")
    pods.wait_allocated(clean, "examples", "320Mi")
    leaves, crashes = pods.uid(clean, "leaves"), pods.uid(clean, "crashes")
    delivery = "lease delivered .*default/crashes/"
    delivered = agents.logged(clean, delivery)
    pods.delete(clean, "leaves", wait=False)
    clean.wait_for(
        "kubelet to end it", lambda: "Killing" in clean.kubectl("describe", "pod", "leaves")
    )
    clean.stop_api_server()
    gone = time.time()
    pods.kill_programs(clean, crashes)
    clean.wait_for("a restart", lambda: agents.logged(clean, delivery) > delivered)
    clean.wait_for("the end of a pod", lambda: not pods.programs(clean, leaves))
    clean.restart_kubelet()
    clean.wait_for("a minute to pass", lambda: time.time() - gone > AWAY_S, deadline_s=AWAY_S)
    back = time.time()
    clean.start_api_server()
    clean.kubectl("wait", "--for=condition=Ready", "node/node1", "--timeout=90s")
    yield gone, back


@pytest.fixture
def scene(som: Cluster, outage: tuple[float, float]) -> Cluster:
    return som


def test_running_pod_keeps_its_memory(scene: Cluster) -> None:
    assert pods.ask(scene, "stays", "check", ONES) == ["check: same"]
    assert pods.restarts(scene, "stays") == 0


def test_container_that_ended_meanwhile_got_zeroed_memory(scene: Cluster) -> None:
    scene.wait_for("kubelet to say so", lambda: pods.restarts(scene, "crashes") == 1)
    lines = pods.wait_output(scene, "crashes", "hold")
    assert lines == ["check: same", f"fill: {ONES}", "hold"]


def test_books_are_right_again(scene: Cluster) -> None:
    pods.wait_allocated(scene, "examples", "192Mi", limit_s=90)
    scene.wait_for("the pod to be gone", lambda: "leaves" not in scene.kubectl("get", "pods"))
    status = pods.pool_status(scene, "examples")
    assert (status["capacity"], status["free"]) == ("2Gi", f"{2048 - 192}Mi")
    scene.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=60s")
    scene.wait_for(
        "the pool to say so",
        lambda: scene.get("sompool", "examples")["status"]["allocated"] == "192Mi",
    )
    assert scene.get("node", "node1")["status"]["capacity"]["som.io/2Mi"] == "1024"


def test_clients_did_not_hammer_the_absent_server(
    scene: Cluster, outage: tuple[float, float]
) -> None:
    gone, back = outage
    tried = requests.in_vain(scene, since=gone, until=back)
    assert any("agent" in client for client in tried), tried
    assert any("operator" in client for client in tried), tried
    most = requests.most_in(tried, window_s=WINDOW_S)
    assert max(most.values()) <= MOST_REQUESTS, most


def test_clients_do_not_hammer_the_server_that_is_back(
    scene: Cluster, outage: tuple[float, float]
) -> None:
    _, back = outage
    scene.wait_for("a minute to pass", lambda: time.time() - back > AWAY_S, deadline_s=AWAY_S + 5)
    sent = requests.answered(scene, since=back, until=back + AWAY_S)
    assert any("som-agent" in client for client in sent), sent
    assert any("som-operator" in client for client in sent), sent
    most = requests.most_in(sent, window_s=WINDOW_S)
    assert max(most.values()) <= MOST_REQUESTS, most


def test_pod_can_come_again(scene: Cluster) -> None:
    agents.wait_tickets(scene)
    scene.apply(pods.pod("later", pods.container("check", ZEROED, "hold", units=928)))
    assert pods.wait_output(scene, "later", "hold") == ["check: same", "hold"]
