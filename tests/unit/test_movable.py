"""Memory moves where its pod can give it to no device, and nowhere else."""

from typing import Any

import pytest

from som_device_plugin import movable, pods

UNITS = {"som.io/2Mi": "8", "som.io/ticket": "1"}
PLAIN = {
    "name": "db",
    "resources": {
        "limits": {**UNITS, "cpu": "1", "memory": "1Gi", "hugepages-2Mi": "2Mi"},
        "requests": {"ephemeral-storage": "1Gi"},
    },
    "securityContext": {"privileged": False, "capabilities": {"add": ["IPC_LOCK"]}},
}


def manifest(
    *others: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": "db", "uid": "u", "annotations": annotations}
    return {"metadata": metadata, "spec": {"containers": [PLAIN, *others], **spec}}


def host_path(path: str) -> dict[str, Any]:
    return {"volumes": [{"name": "of-node", "hostPath": {"path": path}}]}


@pytest.mark.parametrize(
    "pod",
    [
        manifest(),
        manifest({"name": "web"}, initContainers=[PLAIN], volumes=[{"name": "x", "emptyDir": {}}]),
        manifest(annotations={"som.io/keep-on-restart": "true"}),
        manifest(**host_path("/data/dev")),
        manifest(
            {"name": "web", "resources": None, "securityContext": {"capabilities": None}},
            initContainers=None,
            volumes=None,
        ),
    ],
    ids=["alone", "beside others", "annotated", "with a directory of the node", "with nulls"],
)
def test_a_pod_without_devices_lets_its_memory_move(pod: dict[str, Any]) -> None:
    assert movable.by_spec(pod)
    assert all(each.is_movable for each in pods.decode_pod(pod).containers)


SIDECARS: dict[str, dict[str, Any]] = {
    "a device": {"resources": {"limits": {"intel.com/vfio": "1"}}},
    "a requested device": {"resources": {"requests": {"nvidia.com/gpu": "1"}}},
    "a claim": {"resources": {"claims": [{"name": "gpu"}]}},
    "all devices": {"securityContext": {"privileged": True}},
    "all capabilities": {"securityContext": {"capabilities": {"add": ["all"]}}},
    "nearly all": {"securityContext": {"capabilities": {"add": ["CAP_SYS_ADMIN"]}}},
}


@pytest.mark.parametrize("kind", ["containers", "initContainers", "ephemeralContainers"])
@pytest.mark.parametrize("what", SIDECARS)
def test_a_device_of_one_container_keeps_the_memory_of_all_where_it_is(
    kind: str, what: str
) -> None:
    pod = manifest()
    pod["spec"][kind] = [*pod["spec"].get(kind, ()), {"name": "other", **SIDECARS[what]}]
    assert not any(each.is_movable for each in pods.decode_pod(pod).containers)


@pytest.mark.parametrize(
    "pod",
    [
        manifest(runtimeClassName="nvidia"),
        manifest(resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}]),
        manifest(annotations={"cdi.k8s.io/net": "vendor.com/net=vf0"}),
        manifest(annotations={"devices.nri.io/container.db": "- path: /dev/vfio/7"}),
        manifest(annotations={"io.kubernetes.cri-o.Devices": "/dev/vfio/7"}),
        *(manifest(**host_path(path)) for path in ("/", "/dev", "//dev/vfio/")),
    ],
    ids=["class", "claim", "cdi", "nri", "cri-o", "the node's root", "its devices", "its vfio"],
)
def test_a_pod_that_a_runtime_may_give_devices_keeps_its_memory_where_it_is(
    pod: dict[str, Any],
) -> None:
    assert not movable.by_spec(pod)
