from typing import Any

import pytest

from fakes import node
from som_api import v1alpha1
from som_device_plugin import pods
from som_device_plugin.sources.hugetlb import plan


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": "db", "uid": "u1", "resourceVersion": "7"},
        "spec": {
            "initContainers": [
                {"name": "log", "restartPolicy": "Always", "resources": limits("som.io/2Mi", "4")}
            ],
            "containers": [
                {"name": "db", "resources": limits("som.io/1Gi", "2")},
                {"name": "web", "resources": {}},
                {"name": "bare"},
            ],
        },
        **changes,
    }


def limits(resource: str, count: str) -> dict[str, Any]:
    return {"limits": {resource: count, "som.io/ticket": "1", "cpu": "500m"}}


def test_containers_with_units_are_requests_sidecars_too() -> None:
    pod = pods.decode_pod(manifest())
    assert (pod.namespace, pod.name, pod.uid) == ("shop", "db", "u1")
    assert [(each.name, each.unit, each.count) for each in pod.containers] == [
        ("log", "2Mi", 4),
        ("db", "1Gi", 2),
    ]
    assert not pod.keep_on_restart


@pytest.mark.parametrize(
    ("phase", "terminal"),
    [("Pending", False), ("Running", False), ("Unknown", False), ("Failed", True)],
)
def test_only_an_ended_pod_is_terminal(phase: str, terminal: bool) -> None:
    assert pods.decode_pod(manifest(status={"phase": phase})).terminal is terminal


def test_a_running_container_tells_when_its_predecessor_ended() -> None:
    ended = {"terminated": {"finishedAt": "1970-01-01T00:01:40Z"}}
    statuses = [
        {"name": "db", "state": {"running": {}}, "lastState": ended},
        {"name": "web", "state": {"waiting": {}}, "lastState": ended},
        {"name": "bare", "state": {"running": {}}, "lastState": {}},
        {"name": "lost", "state": {"running": {}}, "lastState": {"terminated": {}}},
    ]
    log = {"name": "log", "state": {"running": {}}, "lastState": ended}
    status = {"initContainerStatuses": [log], "containerStatuses": statuses}
    assert pods.decode_pod(manifest(status=status)).restarts == {"log": 100.0, "db": 100.0}


@pytest.mark.parametrize(("count", "expected"), [("1k", 1000), ("4Ki", 4096), ("7", 7)])
def test_counts_may_be_written_as_quantities(count: str, expected: int) -> None:
    spec = {"containers": [{"name": "db", "resources": limits("som.io/2Mi", count)}]}
    assert pods.decode_pod(manifest(spec=spec)).containers[0].count == expected


@pytest.mark.parametrize("unit", ["2Mi", "1Gi"])
def test_a_count_beyond_any_memory_is_the_most_that_som_counts(unit: str) -> None:
    spec = {"containers": [{"name": "db", "resources": limits(f"som.io/{unit}", "100E")}]}
    (request,) = pods.decode_pod(manifest(spec=spec)).containers
    unit_bytes = v1alpha1.UNIT_BYTES[request.unit]
    assert v1alpha1.MOST_BYTES - unit_bytes < request.size_bytes <= v1alpha1.MOST_BYTES


@pytest.mark.parametrize("resources", [None, {"limits": None}, limits("som.io/2Mi", "0")])
def test_null_and_zero_are_no_request(resources: dict[str, Any] | None) -> None:
    containers = [{"name": "db", "resources": resources}]
    spec = {"initContainers": None, "containers": containers}
    metadata = {"namespace": "shop", "name": "db", "uid": "u1", "annotations": None}
    pod = pods.decode_pod(manifest(spec=spec, status=None, metadata=metadata))
    assert (pod.containers, pod.terminal, pod.keep_on_restart) == ((), False, False)


@pytest.mark.parametrize(("value", "kept"), [("true", True), ("false", False), ("yes", False)])
def test_keeping_content_must_be_asked_for(value: str, kept: bool) -> None:
    metadata = {
        "namespace": "shop",
        "name": "db",
        "uid": "u1",
        "annotations": {"som.io/keep-on-restart": value},
    }
    assert pods.decode_pod(manifest(metadata=metadata)).keep_on_restart is kept


def test_before_the_pods_are_known_everything_is_promised() -> None:
    cluster = node.FakeCluster()
    cluster.synced = False
    promised_pages = pods.promised_bytes(cluster, "2Mi") // (2 << 20)
    nothing = plan.next_shrink(
        target=promised_pages, ours={0: 512}, free={0: 512}, hold=512, most=512
    )
    assert nothing is None
    cluster.synced = True
    assert pods.promised_bytes(cluster, "2Mi") == 0
