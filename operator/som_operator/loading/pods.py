"""The pods `som-driver-<node>`: made of the chart's template, and read. Pure."""

import copy
import dataclasses
import datetime
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from som_operator.loading import results

LABELS: Final = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "driver"}
_BOOT: Final = "som.io/boot-id"
_ATTEMPT: Final = "som.io/attempt"

Task = Literal["load", "unload"]
Json = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A driver pod: what it has to do in which boot of its node, and in which attempt.

    `ended` is when, or None while it may still do it; then `succeeded` tells, and `result` is its
    answer, if it came so far. `trouble` is what kubelet says of a container that does not run.
    """

    uid: str
    node: str
    task: Task
    image: str
    boot_id: str
    attempt: int
    ended: datetime.datetime | None = None
    succeeded: bool = False
    result: results.Result | None = None
    trouble: str = ""


def name(node: str) -> str:
    """The name of the driver pod of `node`."""
    return f"som-driver-{node}"


def image(template: Mapping[str, Any]) -> str:
    """The image that pods of this template run."""
    return str(template["spec"]["containers"][0]["image"])


def make(
    template: Mapping[str, Any],
    *,
    node: str,
    somnode_uid: str,
    task: Task,
    boot_id: str,
    attempt: int,
) -> Json:
    """The pod; it goes with the node's SomNode."""
    pod = copy.deepcopy(dict(template)) | {"apiVersion": "v1", "kind": "Pod"}
    owner = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "name": node, "uid": somnode_uid}
    pod["metadata"] |= {
        "name": name(node),
        "annotations": {_BOOT: boot_id, _ATTEMPT: str(attempt)},
        "ownerReferences": [owner],
    }
    # No scheduler: a node that takes no pods any more has its memory and needs the driver.
    pod["spec"]["nodeName"] = node
    pod["spec"]["containers"][0]["args"] = [task]
    return pod


def decode(item: Mapping[str, Any]) -> Pod | None:
    """The driver pod of an object of the API server; None for any other pod."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status", {})
    if not metadata.get("labels", {}).items() >= LABELS.items():
        return None
    annotations, container = metadata.get("annotations", {}), spec["containers"][0]
    containers: list[Json] = status.get("containerStatuses", [])
    state: Json = containers[0].get("state", {}) if containers else {}
    terminated: Json = state.get("terminated", {})
    ended = None
    if status.get("phase") in ("Succeeded", "Failed"):
        moment = terminated.get("finishedAt") or metadata["creationTimestamp"]
        ended = datetime.datetime.fromisoformat(moment)
    told: Json = terminated if ended else state.get("waiting", {})
    words = [status.get("reason"), status.get("message"), told.get("reason")]
    result = results.Result.from_json(terminated.get("message", ""))
    if result is None:
        words.append(told.get("message"))
    return Pod(
        uid=metadata["uid"],
        node=sys.intern(spec.get("nodeName", "")),
        task=cast(Task, container.get("args", ["load"])[0]),
        image=sys.intern(container["image"]),
        boot_id=annotations.get(_BOOT, ""),
        attempt=int(annotations.get(_ATTEMPT, 1)),
        ended=ended,
        succeeded=status.get("phase") == "Succeeded",
        result=result,
        trouble=": ".join(filter(None, words)),
    )
