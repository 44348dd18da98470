"""`helm upgrade` to another tag and `helm uninstall`, with pods running and without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.harness import images
from cluster.harness.cluster import Cluster
from cluster.harness.errors import ClusterError
from cluster.scenes import agents, pods, release
from cluster.scenes.release import NAMESPACE

ONES = "0x1111111111111111"
PRODUCTION = images.PROJECT / "examples" / "values-production.yaml"
# The cluster has no Prometheus operator, whose kinds these would be.
UNMONITORED = [f"--set=metrics.{thing}.create=false" for thing in ("podMonitor", "alerts")]


@pytest.fixture(scope="module")
def scene(som: Cluster) -> Cluster:
    som.apply(pods.pod("stays", pods.container("fill", ONES, "hold", units=64)))
    pods.wait_output(som, "stays", "hold")
    with agents.replaced_by(som, "version_0_1"):
        steps = pods.container("check", "0", "fill", ONES, "hold", units=8)
        som.apply(pods.pod("started-by-0-1", steps))
        pods.wait_output(som, "started-by-0-1", "hold")
        som.apply(pods.pod("admitted-by-0-1", steps))
        refusal = "som: not before the upgrade"
        som.wait_for("the refusal", lambda: refusal in pods.warnings(som, "admitted-by-0-1"))
    return som


def test_upgrade_leaves_pods_and_their_memory_alone(scene: Cluster) -> None:
    for target in release.TARGETS:
        image = f"localhost/som-{target}"
        scene.load(images.retag(f"{image}:test", to=f"{image}:next"))
    old = agents.name(scene)
    release.install(scene, f"--values={PRODUCTION}", *UNMONITORED, tag="next")
    agents.wait_ready(scene)
    assert agents.name(scene) != old
    agents.wait_tickets(scene)
    assert pods.ask(scene, "stays", "check", ONES) == ["check: same"]
    assert pods.restarts(scene, "stays") == 0
    scene.apply(pods.pod("later", pods.container("check", "0", "hold", units=64)))
    assert pods.wait_output(scene, "later", "hold") == ["check: same", "hold"]


def test_pods_that_version_0_1_has_admitted_run_on_and_start_with_their_memory(
    scene: Cluster,
) -> None:
    assert pods.ask(scene, "started-by-0-1", "check", ONES) == ["check: same"]
    pods.kill(scene, "started-by-0-1")
    scene.wait_for("a restart", lambda: pods.restarts(scene, "started-by-0-1") == 1)
    for name in ("started-by-0-1", "admitted-by-0-1"):
        assert pods.wait_output(scene, name, "hold")[0] == "check: same"
        assert pods.ask(scene, name, "check", ONES) == ["check: same"]


def test_uninstall_refuses_while_pods_hold_memory(scene: Cluster) -> None:
    with pytest.raises(ClusterError):
        scene.helm("uninstall", "som", f"--namespace={NAMESPACE}", "--timeout=90s")
    assert pods.ask(scene, "stays", "check", ONES) == ["check: same"]
    scene.kubectl("rollout", "status", "deployment/som-operator", f"--namespace={NAMESPACE}")


def test_kubectl_som_refuses_likewise(scene: Cluster) -> None:
    program = Path(sys.executable).parent / "kubectl-som"
    words: list[str | Path] = [program, "uninstall", "--yes", "--timeout=5"]
    ended = scene.namespaces.run(words, check=False)
    assert ended.returncode == 1, ended.stdout
    assert "default/stays" in ended.stdout
    assert "not everything is given back; the operator goes on" in ended.stdout
    assert pods.ask(scene, "stays", "check", ONES) == ["check: same"]
    scene.kubectl("rollout", "status", "deployment/som-operator", f"--namespace={NAMESPACE}")


def test_uninstall_gives_the_memory_back_and_keeps_the_pools(scene: Cluster) -> None:
    scene.kubectl("delete", "pod", "--all", "--timeout=90s")
    pods.wait_allocated(scene, "examples", "0")
    scene.helm("uninstall", "som", f"--namespace={NAMESPACE}", "--wait", "--timeout=120s")
    capacity = scene.get("node", "node1")["status"]["capacity"]
    assert capacity.get("som.io/2Mi", "0") == "0"
    assert scene.huge_pages_added() == 0
    assert scene.namespaces.run(["ls", "/var/lib/som/leases", "/var/run/cdi"]).stdout.split() == [
        "/var/lib/som/leases:",
        "/var/run/cdi:",
    ]
    assert "examples" in scene.kubectl("get", "sompools")
    assert scene.get("sompool", "examples")["metadata"].get("finalizers", []) == []
