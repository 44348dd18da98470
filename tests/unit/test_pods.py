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


def test_a_running_container_tells_when_it_started_and_its_predecessor_ended() -> None:
    ended = {"terminated": {"finishedAt": "1970-01-01T00:01:40Z"}}
    started = {"running": {"startedAt": "1970-01-01T00:01:41Z"}}
    statuses = [
        {"name": "db", "state": started, "lastState": ended},
        {"name": "web", "state": {"waiting": {}}, "lastState": ended},
        {"name": "bare", "state": {"running": {}}, "lastState": {}},
        {"name": "lost", "state": {"running": {}}, "lastState": {"terminated": {}}},
    ]
    log = {"name": "log", "state": {"running": {}}, "lastState": ended}
    status = {"initContainerStatuses": [log], "containerStatuses": statuses}
    pod = pods.decode_pod(manifest(status=status))
    assert pod.restarts == {"log": 100.0, "db": 100.0}
    assert pod.running == {"db": 101.0}


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
    assert (pod.containers, pod.terminal, pod.keep_on_restart) == ((), False, {})


@pytest.mark.parametrize(
    ("annotations", "kept"),
    [
        ({"som.io/keep-on-restart": "true"}, {"log", "db", "web", "bare"}),
        ({"som.io/keep-on-restart": "false"}, set()),
        ({"keep-on-restart.som.io/db": "true"}, {"db"}),
        ({"som.io/keep-on-restart": "true", "keep-on-restart.som.io/log": "false"}, {"db"}),
        ({"keep-on-restart.som.io/elsewhere": "true"}, set()),
    ],
)
def test_keeping_content_must_be_asked_for_by_the_pod_or_one_container(
    annotations: dict[str, str], kept: set[str]
) -> None:
    metadata = {"namespace": "shop", "name": "db", "uid": "u1", "annotations": annotations}
    found = pods.decode_pod(manifest(metadata=metadata)).keep_on_restart
    assert found.keys() & {"log", "db"} == kept & {"log", "db"}
    assert set(found.values()) <= {0.0}


def test_a_pod_that_asks_for_what_nobody_has_is_read_with_its_fault() -> None:
    metadata = {**manifest()["metadata"], "annotations": {"malloc.som.io/db": "jemalloc"}}
    log, db = pods.decode_pod(manifest(metadata=metadata)).containers
    assert (log.preload, log.fault) == ("", "")
    assert "jemalloc" in db.fault


@pytest.mark.parametrize("name", ["som.io/keep-on-restart", "keep-on-restart.som.io/db"])
def test_another_answer_than_yes_or_no_is_a_fault_of_the_container(name: str) -> None:
    metadata = {"namespace": "shop", "name": "db", "uid": "u1", "annotations": {name: "y" * 1000}}
    (db,) = [
        each
        for each in pods.decode_pod(manifest(metadata=metadata)).containers
        if each.name == "db"
    ]
    assert db.fault.startswith(f"annotation {name} is 'yyy")
    assert db.fault.endswith('write "true", "false" or a time as "10m"')
    assert len(db.fault) < 200


def controlled(annotation: str, *, controller: bool = True) -> dict[str, Any]:
    """A pod of a StatefulSet, and of another owner that does not control it."""
    return manifest(
        metadata={
            **manifest()["metadata"],
            "annotations": {"som.io/keep-on-restart": annotation},
            "ownerReferences": [{"uid": "u3"}, {"uid": "u2", "controller": controller}],
        },
        spec={**manifest()["spec"], "serviceAccountName": "shop"},
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("true", 0), ("9999h", 35996400)],
)
def test_a_time_is_how_long_content_outlives_the_pod(value: str, seconds: int) -> None:
    pod = pods.decode_pod(controlled(value))
    assert pod.keep_on_restart["db"] == seconds
    assert pod.lineage == "u2/shop"
    assert not any(each.fault for each in pod.containers)


@pytest.mark.parametrize("value", ["", "0s", "10", "m", "10 m", "1m1h", "-1s", "1.5h", "99999s"])
def test_what_is_no_time_is_a_fault(value: str) -> None:
    pod = pods.decode_pod(controlled(value))
    assert all("write" in each.fault for each in pod.containers)
    assert pod.keep_on_restart == {}


def test_a_pod_that_nothing_controls_has_no_successor() -> None:
    pod = pods.decode_pod(controlled("10m", controller=False))
    assert pod.lineage == ""
    assert all("no controller" in each.fault for each in pod.containers)


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
