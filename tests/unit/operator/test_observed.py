"""What is kept of Nodes and Pods."""

import sys
from typing import Any

from som_api.plan import observed


def container(limits: dict[str, str], **fields: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"limits": limits, "requests": limits}, **fields}


def pod(*containers: dict[str, Any], node: str = "n", **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "default", "labels": fields.pop("labels", {})},
        "spec": {"nodeName": node, "containers": list(containers), **fields},
        "status": {"phase": fields.get("phase", "Running")},
    }


def decoded(item: dict[str, Any]) -> observed.Pod | None:
    return observed.decode_pod(item, agent_namespace="som-system")


def test_pods_that_hold_no_som_memory_are_not_kept() -> None:
    assert decoded(pod(container({"cpu": "1"}))) is None
    assert decoded(pod({"name": "c"})) is None


def test_pods_that_are_not_bound_or_have_ended_are_not_kept() -> None:
    units = container({"som.io/2Mi": "4"})
    assert decoded(pod(units, node="")) is None
    assert decoded(pod(units, phase="Succeeded")) is None
    assert decoded(pod(units, phase="Failed")) is None


def test_containers_and_sidecars_add_up() -> None:
    found = decoded(
        pod(
            container({"som.io/2Mi": "4"}),
            container({"som.io/2Mi": "1k", "som.io/1Gi": "2"}),
            initContainers=[container({"som.io/2Mi": "2"}, restartPolicy="Always")],
        )
    )
    assert found == observed.Pod(node="n", units={"2Mi": 1006, "1Gi": 2}, is_agent=False)


def test_a_plain_init_container_needs_its_own_beside_the_sidecars_before_it() -> None:
    found = decoded(
        pod(
            container({"som.io/2Mi": "4"}),
            initContainers=[
                container({"som.io/2Mi": "2"}, restartPolicy="Always"),
                container({"som.io/2Mi": "8"}),
            ],
        )
    )
    assert found is not None
    assert found.units == {"2Mi": 10}


def test_a_pod_that_asks_for_more_than_can_be_counted_is_kept_as_the_most() -> None:
    found = decoded(pod(container({"som.io/2Mi": "100E"})))
    assert found is not None
    assert found.units == {"2Mi": sys.maxsize}


def test_the_agent_is_known_by_labels_in_the_operators_namespace_only() -> None:
    item = pod({"name": "c"}, labels=dict(observed.AGENT_LABELS))
    assert decoded(item) is None
    item["metadata"]["namespace"] = "som-system"
    assert decoded(item) == observed.Pod(node="n", units={}, is_agent=True)


def test_a_node_is_kept_with_its_boot_and_its_som_capacity() -> None:
    item = {
        "metadata": {"name": "n", "uid": "u", "labels": {"size": "big"}},
        "status": {
            "capacity": {"memory": "16Ki", "som.io/2Mi": "512", "hugepages-2Mi": "2Gi"},
            "nodeInfo": {"bootID": "b", "containerRuntimeVersion": "containerd://2.1.4"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    assert observed.decode_node(item) == observed.Node(
        name="n",
        uid="u",
        labels={"size": "big"},
        boot_id="b",
        ready=True,
        units={"2Mi": 512},
        memory_bytes=16 << 10,
        huge_pages={"2Mi": 2 << 30, "1Gi": 0},
        runtime="containerd://2.1.4",
        capacity={"som.io/2Mi": "512"},
    )


def test_a_node_that_has_only_just_registered_is_not_ready() -> None:
    node = observed.decode_node({"metadata": {"name": "n", "uid": "u"}})
    assert (node.ready, node.boot_id, node.units) == (False, "", {})
