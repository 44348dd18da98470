"""From `helm install` to pods that use their memory, side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import pods

ZEROED, ONES, TWOS = "0", "0x1111111111111111", "0x2222222222222222"


@pytest.fixture(scope="module")
def scene(clean: Cluster) -> Iterator[Cluster]:
    """Every pod of the scene, created at once."""
    restricted = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "restricted",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    whole = pods.container(
        *("id", "mounted", "size", "check", ZEROED, "fill", ONES, "overgrow"),
        *("env", "SOM_BYTES", "env", "SOM_UNIT", "env", "SOM_DRIVER", "hold"),
        units=256,
        # What the agent knows stands above what a manifest claims.
        env=[{"name": "SOM_BYTES", "value": "1"}],
    )
    looks = ("env", "SOM_CONTENT", "check", ONES, "fill", ONES, "hold")
    keeps = pods.pod(
        "keeps", pods.container(*looks, units=8), pods.container(*looks, units=8, name="zeroed")
    )
    keeps["metadata"]["annotations"] = {"keep-on-restart.som.io/main": "true"}
    cache = pods.stateful_set("cache", pods.container(*looks, units=8))
    keeping = {"som.io/keep-on-restart": "10m"}
    cache["spec"]["template"]["metadata"]["annotations"] = keeping
    sidecar = pods.container("size", "hold", units=2, name="sidecar", restartPolicy="Always")
    clean.apply(
        restricted,
        pods.pod("whole", whole, namespace="restricted"),
        pods.pod("one", pods.container("fill", ONES, "hold", units=32)),
        pods.pod("two", pods.container("fill", TWOS, "hold", units=32)),
        pods.pod("restarts", pods.container("check", ZEROED, "fill", ONES, "hold", units=8)),
        keeps,
        cache,
        pods.pod(
            "several",
            pods.container("size", "hold", units=4, name="app"),
            pods.container("size", "hold", units=8, name="other"),
            pods.container("hold", name="plain"),
            initContainers=[sidecar],
        ),
        pods.pod("short", pods.container("hold", units=2048)),
    )
    yield clean
    clean.kubectl("delete", "namespace", "restricted", "--timeout=90s")


def test_node_offers_what_the_pool_has(som: Cluster) -> None:
    allocatable = som.get("node", "node1")["status"]["allocatable"]
    assert allocatable["som.io/2Mi"] == "1024"
    assert allocatable["som.io/ticket"] == "256"


def test_restricted_pod_maps_its_whole_quota_and_not_a_page_more(scene: Cluster) -> None:
    assert pods.wait_output(scene, "whole", "hold", namespace="restricted") == [
        "id: uid 10001 gid 0 capabilities 0000000000000000",
        "mounted: rw,nosuid,nodev,noexec,relatime",
        f"size: {256 * pods.UNIT_BYTES}",
        "check: same",
        f"fill: {ONES}",
        "overgrow: ENOMEM",
        f"env: {256 * pods.UNIT_BYTES}",
        "env: 2Mi",
        "env: HugeTLBFS",
        "hold",
    ]


def test_pods_see_their_own_memory_only(scene: Cluster) -> None:
    pods.wait_output(scene, "one", "hold")
    pods.wait_output(scene, "two", "hold")
    assert pods.ask(scene, "one", "check", ONES) == ["check: same"]
    assert pods.ask(scene, "two", "check", TWOS) == ["check: same"]


def test_pod_that_names_the_device_of_another_pod_gets_nothing_of_it(scene: Cluster) -> None:
    uid = pods.uid(scene, "one")
    [process] = pods.programs(scene, uid)
    mounts = scene.namespaces.run(["cat", f"/proc/{process}/mountinfo"]).stdout
    [lease] = set(re.findall(r"som:([0-9a-f]{16})\.", mounts))
    thief = pods.pod("thief", pods.container("size", "hold"), restartPolicy="Never")
    annotations = {"cdi.k8s.io/som": f"som.io/lease={lease}"}
    scene.apply({**thief, "metadata": {**thief["metadata"], "annotations": annotations}})
    scene.wait_for("the thief's end", lambda: scene.logs("thief"))
    assert scene.logs("thief") == "size: No such file or directory\n"
    pods.delete(scene, "thief")


def test_sidecar_and_app_containers_have_their_own_amounts(scene: Cluster) -> None:
    for name, units in {"sidecar": 2, "app": 4, "other": 8}.items():
        lines = pods.wait_output(scene, "several", "hold", container=name)
        assert lines == [f"size: {units * pods.UNIT_BYTES}", "hold"]


def test_restarted_container_gets_zeroed_memory(scene: Cluster) -> None:
    pods.wait_output(scene, "restarts", "hold")
    pods.kill(scene, "restarts")
    scene.wait_for("a restart", lambda: pods.restarts(scene, "restarts") == 1)
    lines = pods.wait_output(scene, "restarts", "hold")
    assert lines == ["check: same", f"fill: {ONES}", "hold"]


def test_restarted_container_finds_its_content_where_it_is_to_be_kept(scene: Cluster) -> None:
    containers = ("main", "zeroed")
    for name in containers:
        assert "env: fresh" in pods.wait_output(scene, "keeps", "hold", container=name)
    pods.kill(scene, "keeps")
    scene.wait_for("restarts", lambda: pods.restarts(scene, "keeps") == 2)
    kept, zeroed = [pods.wait_output(scene, "keeps", "hold", container=name) for name in containers]
    assert kept == ["env: kept", "check: same", f"fill: {ONES}", "hold"]
    assert zeroed[0] == "env: fresh"
    assert "check: same" not in zeroed


def test_next_pod_of_a_stateful_set_finds_what_its_pod_left_to_it(scene: Cluster) -> None:
    assert "env: fresh" in pods.wait_output(scene, "cache-0", "hold")
    pods.delete(scene, "cache-0")
    lines = pods.wait_output(scene, "cache-0", "hold")
    assert lines == ["env: kept", "check: same", f"fill: {ONES}", "hold"]
    scene.kubectl("delete", "statefulset", "cache", "--timeout=90s")


def test_pod_that_asks_for_too_much_says_so(scene: Cluster) -> None:
    pods.wait_golden(scene, "short", "pool-short")


def test_pools_are_shown_as_a_table(scene: Cluster) -> None:
    pods.delete(scene, "restarts", "keeps", "short")
    in_use = 256 + 32 + 32 + 2 + 4 + 8
    pods.wait_allocated(scene, "examples", f"{in_use * 2}Mi")

    def table() -> str:
        text = scene.kubectl("get", "sompools")
        return text if f"{in_use * 2}Mi" in text else ""

    shown = scene.wait_for("the table", table)
    assert re.sub(r"\S+$", "AGE", shown.strip()) == (
        "NAME       UNIT   CAPACITY   ALLOCATED   NODES   READY-NODES   READY   REASON     AGE\n"
        "examples   2Mi    2Gi        668Mi       1       1             True    Reserved   AGE"
    )


def test_deleted_pods_memory_is_free_and_zeroed_for_the_next(scene: Cluster) -> None:
    pods.delete(scene, "one")
    scene.kubectl("delete", "pod", "whole", "--namespace=restricted")
    pods.wait_allocated(scene, "examples", f"{(32 + 2 + 4 + 8) * 2}Mi")
    rest = 1024 - (32 + 2 + 4 + 8)
    scene.apply(pods.pod("next", pods.container("check", ZEROED, "hold", units=rest)))
    assert pods.wait_output(scene, "next", "hold") == ["check: same", "hold"]
