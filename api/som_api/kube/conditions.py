"""Conditions and statuses, published the same way for every kind.

A status is written by server-side apply of the fields that the caller set and of no others, only
when they differ from what is there, and each condition whose status changed becomes one Event.
Source: https://github.com/kubernetes/community, sig-architecture/api-conventions.md.
"""

import dataclasses
import datetime
from collections.abc import Iterable, Sequence, Set
from typing import Final, Protocol, TypeVar

from som_api import v1alpha1
from som_api.kube import client
from som_api.kube.resource import ObjectRef, rfc3339


class Emitter(Protocol):
    """What Events are given to: a `Recorder`, or something in front of one."""

    def emit(self, target: ObjectRef, *, reason: str, message: str, warning: bool = False) -> None:
        """Note an Event on `target`."""


@dataclasses.dataclass(frozen=True)
class Transition:
    """A condition whose status changed, and whether an admin should worry."""

    condition: v1alpha1.Condition
    warning: bool


_GOOD: Final = ("Ready", "AgentReady", "DriverLoaded")
"""Conditions that are well when they are true."""
_OF_A_NODE: Final = ("AgentReady", "DriverLoaded")

Status = TypeVar("Status", v1alpha1.SomPoolStatus, v1alpha1.SomNodeStatus)


def merge(
    current: Iterable[v1alpha1.Condition],
    wanted: Iterable[v1alpha1.Condition],
    *,
    now: datetime.datetime,
) -> tuple[v1alpha1.Condition, ...]:
    """`wanted` with transition times: kept from `current` while the status is the same, else now.

    Types that only `current` has are left out: they are somebody else's.
    """
    before = {condition.type: condition for condition in current}
    return tuple(_since(before.get(condition.type), condition, now=now) for condition in wanted)


def _since(
    before: v1alpha1.Condition | None, wanted: v1alpha1.Condition, *, now: datetime.datetime
) -> v1alpha1.Condition:
    if before is None or before.status != wanted.status:
        return wanted.model_copy(update={"last_transition_time": rfc3339(now)})
    if _says(before, wanted):
        return before
    return wanted.model_copy(update={"last_transition_time": before.last_transition_time})


def transitions(
    current: Iterable[v1alpha1.Condition], merged: Iterable[v1alpha1.Condition]
) -> Sequence[Transition]:
    """The conditions of `merged` that deserve an Event, in their order.

    Those whose status changed; of those first seen, the ones that are true. An agent and a driver
    that are there from the beginning are no news, nor is a driver of which nothing is known yet.
    Losing Ready is trouble, and so is every other condition that becomes true, unless work is
    Progressing: then that is the Event, and it is none that the work has ended.
    """
    merged = tuple(merged)
    before = {condition.type: condition for condition in current}
    at_work = {c.reason for c in merged if c.type == "Progressing" and c.status == "True"}
    found = []
    for condition in merged:
        kind, is_true = condition.type, condition.status == "True"
        is_good = kind in _GOOD
        if kind in _OF_A_NODE and (kind not in before or condition.status == "Unknown"):
            is_news = condition.status == "False"
        elif kind not in before:
            is_news = is_true
        else:
            is_news = not _same_status(before[kind], condition)
        if kind == "Progressing":
            is_news = is_news and is_true
        elif is_good and not is_true:
            is_news = is_news and condition.reason not in at_work
        if is_news:
            trouble = is_good != is_true and kind != "Progressing"
            found.append(Transition(condition, warning=trouble))
    return found


def _same_status(before: v1alpha1.Condition | None, after: v1alpha1.Condition) -> bool:
    return before is not None and before.status == after.status


async def publish(
    kube: client.Client,
    recorder: Emitter,
    target: ObjectRef,
    *,
    current: Status,
    wanted: Status,
    dropped: Set[str] = frozenset(),
    field_manager: str,
    now: datetime.datetime,
    about: ObjectRef | None = None,
    version: str = "",
) -> str:
    """Make the fields set in `wanted` the status of `target`.

    Returns the resourceVersion that it has now, or "" where that took no request.

    Fields of `wanted` that were not set belong to somebody else and are not written. `current` is
    the status as last seen; conditions of `wanted` need no transition times. `dropped` are types
    of conditions that we wrote before, and that are not there any more. With a `version` (a
    resourceVersion), an object that has changed since is not written: 409. Each transition
    becomes one Event on `about`, else on `target`. Raises KubeError.
    """
    if _stands(current, wanted, dropped):
        return ""
    conditions = merge(current.conditions, wanted.conditions, now=now)
    merged = wanted
    if "conditions" in wanted.model_fields_set:
        merged = wanted.model_copy(update={"conditions": conditions})
    body = merged.model_dump(mode="json", include=wanted.model_fields_set, exclude_none=True)
    written = await kube.apply(
        target.path(subresource="status"),
        {
            "apiVersion": target.resource.api_version,
            "kind": target.resource.kind,
            "metadata": {
                "name": target.name,
                **({"resourceVersion": version} if version else {}),
            },
            "status": body,
        },
        field_manager=field_manager,
    )
    for transition in transitions(current.conditions, conditions):
        recorder.emit(
            about or target,
            reason=transition.condition.reason,
            message=transition.condition.message,
            warning=transition.warning,
        )
    return str(written["metadata"]["resourceVersion"])


def _stands(current: Status, wanted: Status, dropped: Set[str]) -> bool:
    """Whether nothing is to be written: conditions of other types are somebody else's."""
    fields = wanted.model_fields_set
    if any(getattr(current, f) != getattr(wanted, f) for f in fields if f != "conditions"):
        return False
    return "conditions" not in fields or stands(
        current.conditions, wanted.conditions, dropped=dropped
    )


def stands(
    told: Iterable[v1alpha1.Condition],
    wanted: Iterable[v1alpha1.Condition],
    *,
    dropped: Set[str] = frozenset(),
) -> bool:
    """Whether `told` says all of `wanted`, and has none of the types of `dropped`."""
    there = {condition.type: condition for condition in told}
    return dropped.isdisjoint(there) and all(
        _says(there.get(condition.type), condition) for condition in wanted
    )


def _says(told: v1alpha1.Condition | None, wanted: v1alpha1.Condition) -> bool:
    """Whether `told` is `wanted` already, which has no time of its own."""
    return (
        told is not None
        and told.status == wanted.status
        and told.reason == wanted.reason
        and told.message == wanted.message
        and told.observed_generation == wanted.observed_generation
    )
