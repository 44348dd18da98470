"""Pods as the agent reads them, from the manifests of an API server or of local mode."""

import datetime
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from som_api import v1alpha1
from som_device_plugin import seams

KEEP_ON_RESTART: Final = f"{v1alpha1.GROUP}/keep-on-restart"
"""Annotation: "true" gives a restarted container its memory back with its content."""

_TERMINAL: Final = frozenset({"Succeeded", "Failed"})


def decode_pod(manifest: Mapping[str, Any]) -> seams.Pod:
    """The pod of a v1 Pod object; containers without som units are left out.

    Raises:
        ValueError, KeyError: the manifest is no Pod's.
    """
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    return seams.Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=seams.PodUid(metadata["uid"]),
        terminal=has_ended(manifest),
        containers=tuple(request for each in containers for request in _requests(each)),
        keep_on_restart=(metadata.get("annotations") or {}).get(KEEP_ON_RESTART) == "true",
        restarts=dict(_restarts(status)),
    )


def has_ended(manifest: Mapping[str, Any]) -> bool:
    """Whether the pod's containers have ended for good."""
    return (manifest.get("status") or {}).get("phase") in _TERMINAL


def promised_bytes(source: seams.PodSource, unit: v1alpha1.Unit) -> int:
    """What pods bound to this node have requested, started or not; all, before it is known."""
    if not source.synced:
        return sys.maxsize
    return sum(
        request.size_bytes
        for pod in source.pods()
        if not pod.terminal
        for request in pod.containers
        if request.unit == unit
    )


def _restarts(status: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    kinds = ("initContainerStatuses", "containerStatuses")
    for each in (each for kind in kinds for each in status.get(kind) or ()):
        before = (each.get("lastState") or {}).get("terminated") or {}
        ended = before.get("finishedAt")
        if ended and (each.get("state") or {}).get("running") is not None:
            yield each["name"], datetime.datetime.fromisoformat(ended).timestamp()


def _requests(container: Mapping[str, Any]) -> Iterator[seams.ContainerRequest]:
    """Of an extended resource limits and requests are equal, and limits are always there.

    A limit of 0, which templates write, is none. One of 100E, which a mirror pod may have, is more
    than any node has: 63 bits of bytes.
    """
    limits = (container.get("resources") or {}).get("limits") or {}
    for unit in v1alpha1.UNIT_BYTES:
        wanted = v1alpha1.read_bytes(limits.get(v1alpha1.resource_name(unit), 0))
        count = min(wanted, v1alpha1.MOST_BYTES // v1alpha1.UNIT_BYTES[unit])
        if count:
            yield seams.ContainerRequest(name=container["name"], unit=unit, count=count)
