"""kubelet's memoryManagerPolicy Static: it would not start again after a change of huge pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods
from cluster.scenes.conftest import POOL


@pytest.fixture(scope="module")
def scene(som: Cluster) -> Iterator[Cluster]:
    """The pool is ordered on a node whose kubelet has the policy; after that, without it."""
    som.kubectl("delete", "sompool/examples", "--timeout=90s")
    som.change_memory_manager(static=True)
    som.apply(POOL.read_text())
    yield som
    som.kubectl("delete", "pod", "--all", "--timeout=90s")
    som.change_memory_manager(static=False)
    som.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=90s")
    agents.wait_units(som, 1024)
    agents.wait_tickets(som)


def test_pool_says_why_nothing_is_reserved(scene: Cluster) -> None:
    blocked = "jsonpath={.status.conditions[?(@.type=='Blocked')].reason}=MemoryManagerStatic"
    scene.kubectl("wait", f"--for={blocked}", "somnode/node1", "--timeout=60s")
    scene.kubectl("wait", "--for=condition=Degraded", "sompool/examples", "--timeout=60s")
    assert "memoryManagerPolicy" in scene.kubectl("describe", "sompool/examples")
    assert pods.pool_status(scene, "examples")["capacity"] == "0"
    assert scene.huge_pages_added() == 0


def test_kubelet_starts_again(scene: Cluster) -> None:
    scene.restart_kubelet()
    scene.apply(pods.pod("plain", pods.container("hold")))
    pods.wait_ready(scene, "plain")
    assert scene.huge_pages_added() == 0
