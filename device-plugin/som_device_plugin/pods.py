"""Pods as the agent reads them, from the manifests of an API server or of local mode."""

import dataclasses
import datetime
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from som_api import v1alpha1
from som_device_plugin import annotations as of_pods
from som_device_plugin import libsom, movable, seams

KEEP_ON_RESTART: Final = "keep-on-restart"
"""Annotation: "true" gives restarted containers their memory back with its content.

A time, as "10m", does that, and gives it to the pod's successor within that time.
"""
_TIME: Final = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,4})s)?")

_TERMINAL: Final = frozenset({"Succeeded", "Failed"})


def decode_pod(manifest: Mapping[str, Any]) -> seams.Pod:
    """The pod of a v1 Pod object; containers without som units are left out.

    Raises:
        ValueError, KeyError: the manifest is no Pod's.
    """
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    annotations = metadata.get("annotations") or {}
    lineage = _lineage(manifest)
    is_movable = movable.by_spec(manifest)
    return seams.Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=seams.PodUid(metadata["uid"]),
        terminal=has_ended(manifest),
        containers=tuple(
            dataclasses.replace(request, is_movable=is_movable)
            for each in containers
            for request in _requests(each, annotations, lineage)
        ),
        keep_on_restart={
            each["name"]: kept_s
            for each in containers
            if (kept_s := _kept_s(_asked_to_keep(each["name"], annotations)[1])) is not None
        },
        lineage=lineage,
        running=dict(_times(status, "state", "running", "startedAt")),
        restarts=dict(_times(status, "lastState", "terminated", "finishedAt")),
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


def _lineage(manifest: Mapping[str, Any]) -> str:
    """The UID of what controls the pod, with the account that the pod acts as."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    account = manifest["spec"].get("serviceAccountName") or ""
    return next((f"{each['uid']}/{account}" for each in owners if each.get("controller")), "")


def _kept_s(value: str) -> float | None:
    """How long content outlives the pod: 0 for "true". None for "false", and what means nothing."""
    if value == "true":
        return 0.0
    parts = _TIME.fullmatch(value)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    return float(3600 * hours + 60 * minutes + seconds) or None


def _fault_of_keeping(container: str, annotations: Mapping[str, str], lineage: str) -> str:
    name, value = _asked_to_keep(container, annotations)
    kept_s = _kept_s(value)
    if kept_s is None and value != "false":
        return f'annotation {name} is {value[:64]!r}: write "true", "false" or a time as "10m"'
    if kept_s and not lineage:
        return (
            f"annotation {name} is {value!r}, and this pod has no controller, such as a "
            'StatefulSet, that makes its successor: write "true"'
        )
    return ""


def _asked_to_keep(container: str, annotations: Mapping[str, str]) -> tuple[str, str]:
    """The annotation that holds for the container, and its value."""
    return of_pods.of_container(KEEP_ON_RESTART, container, annotations, default="false")


def _times(
    status: Mapping[str, Any], which: str, state: str, field: str
) -> Iterator[tuple[str, float]]:
    """Of each container that runs, the time `field` of its state `which`, if it is `state`."""
    kinds = ("initContainerStatuses", "containerStatuses")
    for each in (each for kind in kinds for each in status.get(kind) or ()):
        when = ((each.get(which) or {}).get(state) or {}).get(field)
        if when and (each.get("state") or {}).get("running") is not None:
            yield each["name"], datetime.datetime.fromisoformat(when).timestamp()


def _requests(
    container: Mapping[str, Any], annotations: Mapping[str, str], lineage: str
) -> Iterator[seams.ContainerRequest]:
    """Of an extended resource limits and requests are equal, and limits are always there.

    A limit of 0, which templates write, is none. One of 100E, which a mirror pod may have, is more
    than any node has: 63 bits of bytes.
    """
    limits = (container.get("resources") or {}).get("limits") or {}
    for unit in v1alpha1.UNIT_BYTES:
        wanted = v1alpha1.read_bytes(limits.get(v1alpha1.resource_name(unit), 0))
        count = min(wanted, v1alpha1.MOST_BYTES // v1alpha1.UNIT_BYTES[unit])
        if count:
            preload, fault = "", _fault_of_keeping(container["name"], annotations, lineage)
            try:
                preload = libsom.preload(container, annotations)
            except libsom.CannotPreload as error:
                fault = str(error)
            yield seams.ContainerRequest(container["name"], unit, count, preload, fault)
