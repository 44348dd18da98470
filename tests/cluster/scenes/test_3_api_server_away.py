"""The API server is away for a minute, kubelet restarts meanwhile, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods

ZEROED, ONES = "0", "0x1111111111111111"
AWAY_S = 60


@pytest.fixture(scope="module")
def scene(clean: Cluster) -> Iterator[Cluster]:
    """Pods before, the API server away with kubelet restarted inside, and back again."""
    clean.apply(
        pods.pod("stays", pods.container("fill", ONES, "hold", units=64)),
        pods.pod("goes", pods.container("fill", ONES, "hold", units=64)),
    )
    pods.wait_output(clean, "stays", "hold")
    pods.wait_output(clean, "goes", "hold")
    pods.wait_allocated(clean, "examples", "256Mi")
    clean.kubectl("delete", "pod", "goes", "--wait=false")
    clean.stop_api_server()
    gone = time.monotonic()
    clean.restart_kubelet()
    clean.wait_for(
        "the minute to pass", lambda: time.monotonic() - gone > AWAY_S, deadline_s=AWAY_S + 5
    )
    clean.start_api_server()
    clean.kubectl("wait", "--for=condition=Ready", "node/node1", "--timeout=90s")
    yield clean


def test_running_pod_keeps_its_memory(scene: Cluster) -> None:
    assert pods.ask(scene, "stays", "check", ONES) == ["check: same"]
    assert pods.restarts(scene, "stays") == 0


def test_books_are_right_again(scene: Cluster) -> None:
    pods.wait_allocated(scene, "examples", "128Mi", limit_s=90)


def test_pod_can_come_again(scene: Cluster) -> None:
    agents.wait_tickets(scene)
    scene.apply(pods.pod("later", pods.container("check", ZEROED, "hold", units=960)))
    assert pods.wait_output(scene, "later", "hold") == ["check: same", "hold"]
