"""kubelet and the agent end and come back, alone and together, while pods run, come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods

ZEROED, ONES, TWOS = "0", "0x1111111111111111", "0x2222222222222222"
KEPT_BYTES = 32 + 16


@pytest.fixture(scope="module")
def scene(clean: Cluster) -> Iterator[Cluster]:
    """Two pods that run through all that happens."""
    clean.apply(
        pods.pod("ones", pods.container("fill", ONES, "hold", units=16)),
        pods.pod("twos", pods.container("fill", TWOS, "hold", units=8)),
    )
    pods.wait_output(clean, "ones", "hold")
    pods.wait_output(clean, "twos", "hold")
    yield clean


def run_holder(cluster: Cluster, name: str) -> str:
    """Start a pod that holds 128 MiB beside the two; all that is allocated then."""
    cluster.apply(pods.pod(name, pods.container("fill", ONES, "hold", units=64)))
    pods.wait_output(cluster, name, "hold")
    running = f"{KEPT_BYTES + 128}Mi"
    pods.wait_allocated(cluster, "examples", running)
    return running


def restart_both(cluster: Cluster) -> None:
    cluster.restart_kubelet()
    agents.restart(cluster)


@pytest.mark.parametrize(
    "disrupt",
    [
        Cluster.restart_kubelet,
        agents.restart,
        agents.kill,
        restart_both,
        Cluster.restart_containerd,
    ],
    ids=["kubelet", "agent", "agent killed", "kubelet and agent", "containerd"],
)
def test_restart_leaves_pods_and_their_memory_alone(
    scene: Cluster, disrupt: Callable[[Cluster], None]
) -> None:
    disrupt(scene)
    agents.wait_ready(scene)
    agents.wait_tickets(scene)
    scene.apply(pods.pod("later", pods.container("check", ZEROED, "fill", ONES, "hold", units=4)))
    assert pods.wait_output(scene, "later", "hold")[0] == "check: same"
    assert pods.ask(scene, "ones", "check", ONES) == ["check: same"]
    assert pods.ask(scene, "twos", "check", TWOS) == ["check: same"]
    assert pods.restarts(scene, "ones") == pods.restarts(scene, "twos") == 0
    pods.wait_allocated(scene, "examples", f"{KEPT_BYTES + 8}Mi")
    pods.delete(scene, "later")
    pods.wait_allocated(scene, "examples", f"{KEPT_BYTES}Mi")


def test_pod_deleted_while_the_agent_is_down_is_freed_when_it_is_back(scene: Cluster) -> None:
    run_holder(scene, "leaving")
    with agents.away(scene):
        pods.delete(scene, "leaving")
    pods.wait_allocated(scene, "examples", f"{KEPT_BYTES}Mi")


def test_pod_deleted_while_kubelet_is_down_is_freed_when_it_is_back(scene: Cluster) -> None:
    running = run_holder(scene, "leaving")
    scene.stop_kubelet()
    pods.delete(scene, "leaving", wait=False)
    assert pods.pool_status(scene, "examples")["allocated"] == running
    scene.start_kubelet()
    scene.kubectl("wait", "--for=delete", "pod/leaving", "--timeout=60s")
    pods.wait_allocated(scene, "examples", f"{KEPT_BYTES}Mi")


def test_pod_that_comes_while_the_agent_is_down_waits_and_says_why(scene: Cluster) -> None:
    with agents.away(scene):
        scene.apply(pods.pod("waiting", pods.container("check", ZEROED, "hold", units=4)))
        scene.wait_for(
            "the scheduler's answer",
            lambda: "Insufficient som.io/ticket" in pods.warnings(scene, "waiting"),
        )
    assert pods.wait_output(scene, "waiting", "hold") == ["check: same", "hold"]
    pods.delete(scene, "waiting")


def test_pod_deleted_by_force_is_not_freed_while_its_container_runs(scene: Cluster) -> None:
    running = run_holder(scene, "forced")
    scene.stop_kubelet()
    scene.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    silent = "PodResources is silent"
    before = agents.logged(scene, silent)
    scene.wait_for("two attempts", lambda: agents.logged(scene, silent) >= before + 2)
    assert pods.pool_status(scene, "examples")["allocated"] == running
    scene.start_kubelet()
    pods.wait_allocated(scene, "examples", f"{KEPT_BYTES}Mi")
    agents.wait_tickets(scene)


def test_container_that_restarts_before_the_agent_is_back_gets_no_other_pods_bytes(
    scene: Cluster,
) -> None:
    steps = ("check", ZEROED, "fill", ONES, "hold")
    for name in ("early", "specless"):
        scene.apply(pods.pod(name, pods.container(*steps, units=8)))
        pods.wait_output(scene, name, "hold")
    with agents.away(scene):
        scene.restart_kubelet()
        # A container that ends before kubelet has taken its pod over is refused without agent.
        pods.ask(scene, "early", "size")
        pods.ask(scene, "specless", "size")
        pods.kill(scene, "early")
        scene.wait_for("a restart", lambda: pods.restarts(scene, "early") == 1)
        own_or_zeroed = {f"check: offset 0 holds {ONES}", "check: same"}
        assert pods.wait_output(scene, "early", "hold")[0] in own_or_zeroed
        # As a boot does, or as the agent does before it takes memory away.
        scene.namespaces.run(["sh", "-c", "rm /var/run/cdi/som.io-lease-*.json"])
        pods.kill(scene, "specless")
        pods.wait_golden(scene, "specless", "spec-missing")
    scene.wait_for("a restart", lambda: pods.restarts(scene, "specless") == 1, deadline_s=90)
    assert pods.wait_output(scene, "specless", "hold")[0] == "check: same"
    pods.delete(scene, "early", "specless")
    pods.wait_allocated(scene, "examples", f"{KEPT_BYTES}Mi")


def test_stateful_pod_recreated_under_its_name_gets_zeroes_and_its_own_amount(
    scene: Cluster,
) -> None:
    steps = ("size", "check", ZEROED, "fill", TWOS, "hold")
    scene.apply(pods.stateful_set("stateful", pods.container(*steps, units=4)))
    pods.wait_output(scene, "stateful-0", "hold")
    old = pods.uid(scene, "stateful-0")
    scene.apply(pods.stateful_set("stateful", pods.container(*steps, units=6)))
    scene.wait_for("the new pod", lambda: pods.uid(scene, "stateful-0") != old)
    lines = pods.wait_output(scene, "stateful-0", "hold")
    assert lines[:2] == [f"size: {6 * pods.UNIT_BYTES}", "check: same"]
