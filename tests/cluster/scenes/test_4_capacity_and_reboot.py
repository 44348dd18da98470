"""A pool grows, shrinks and loses its node's memory to a reboot, while pods use it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods

ZEROED, ONES = "0", "0x1111111111111111"


@pytest.fixture(scope="module")
def scene(clean: Cluster) -> Iterator[Cluster]:
    """One pod with 64 MiB, which lives through all of it."""
    container = pods.container("check", ZEROED, "fill", ONES, "hold", units=32)
    clean.apply(pods.stateful_set("stays", container))
    pods.wait_output(clean, "stays-0", "hold")
    yield clean
    set_capacity(clean, "2Gi")


def set_capacity(cluster: Cluster, capacity: str) -> None:
    patch = json.dumps({"spec": {"capacity": capacity}})
    cluster.kubectl("patch", "sompool/examples", "--type=merge", f"--patch={patch}")


def observed(cluster: Cluster) -> bool:
    """Whether operator and agent have acted on the pool's spec as it is."""
    pool = cluster.get("sompool", "examples")
    generation = pool["metadata"]["generation"]
    reported = pods.pool_status(cluster, "examples")["generation"]
    return bool(pool["status"]["observedGeneration"] == reported == generation)


@pytest.mark.parametrize("capacity, units", [("64Mi", 32), ("256Mi", 128), ("64Mi", 32)])
def test_pool_changes_its_size_under_a_running_pod(
    scene: Cluster, capacity: str, units: int
) -> None:
    set_capacity(scene, capacity)
    agents.wait_units(scene, units)
    scene.wait_for(
        f"the agent to report {capacity}",
        lambda: pods.pool_status(scene, "examples")["capacity"] == capacity,
    )
    assert pods.ask(scene, "stays-0", "check", ONES) == ["check: same"]


def test_capacity_below_what_pods_use_kills_none_at_a_kubelet_restart(scene: Cluster) -> None:
    set_capacity(scene, "32Mi")
    scene.wait_for("the order to be seen", lambda: observed(scene))
    scene.restart_kubelet()
    agents.wait_tickets(scene)
    assert pods.ask(scene, "stays-0", "check", ONES) == ["check: same"]
    assert pods.restarts(scene, "stays-0") == 0
    assert scene.get("node", "node1")["status"]["capacity"]["som.io/2Mi"] == "32"
    set_capacity(scene, "256Mi")
    agents.wait_units(scene, 128)


def test_after_a_reboot_pods_start_when_the_pool_is_back_with_zeroed_memory(
    scene: Cluster,
) -> None:
    scene.apply(pods.pod("alone", pods.container("hold", units=4)))
    pods.wait_output(scene, "alone", "hold")
    # It may have come while the agent zeroed the last free pages ahead, and been tried again.
    scene.kubectl("delete", "events", "--field-selector=involvedObject.name=alone")
    old_boot = scene.get("node", "node1")["status"]["nodeInfo"]["bootID"]
    with agents.away(scene):
        scene.reboot_node()
        scene.wait_for(
            "another boot",
            lambda: scene.get("node", "node1")["status"]["nodeInfo"]["bootID"] != old_boot,
            deadline_s=90,
        )
        scene.wait_for(
            "kubelet to judge the pod",
            lambda: scene.get("pod", "stays-0")["status"]["phase"] != "Running",
        )
        assert scene.namespaces.run(["pgrep", "--exact", "workload"], check=False).stdout == ""
    pods.wait_golden(scene, "alone", "reboot")
    lines = pods.wait_output(scene, "stays-0", "hold")
    assert lines == ["check: same", f"fill: {ONES}", "hold"]
    boot = scene.get("node", "node1")["status"]["nodeInfo"]["bootID"]
    assert scene.get("somnode", "node1")["status"]["bootID"] == boot
    pods.wait_allocated(scene, "examples", "64Mi")
