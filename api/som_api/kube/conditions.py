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
from som_api.kube.resource import Json, ObjectRef, rfc3339


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
    return tuple(
        condition.model_copy(
            update={
                "last_transition_time": before[condition.type].last_transition_time
                if _same_status(before.get(condition.type), condition)
                else rfc3339(now)
            }
        )
        for condition in wanted
    )


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
) -> bool:
    """Make the fields set in `wanted` the status of `target`; return whether that took a request.

    Fields of `wanted` that were not set belong to somebody else and are not written. `current` is
    the status as last seen; conditions of `wanted` need no transition times. `dropped` are types
    of conditions that we wrote before, and that are not there any more. Each transition
    becomes one Event on `about`, else on `target`. Raises KubeError.
    """
    conditions = merge(current.conditions, wanted.conditions, now=now)
    merged = wanted
    if "conditions" in wanted.model_fields_set:
        merged = wanted.model_copy(update={"conditions": conditions})
    body = _ours(merged, wanted)
    if _ours(_without_foreign_conditions(current, wanted, dropped), wanted) == body:
        return False
    await kube.apply(
        target.path(subresource="status"),
        {
            "apiVersion": target.resource.api_version,
            "kind": target.resource.kind,
            "metadata": {"name": target.name},
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
    return True


def _ours(status: Status, wanted: Status) -> Json:
    """The fields that `wanted` sets, as `status` has them."""
    return status.model_dump(mode="json", include=wanted.model_fields_set, exclude_none=True)


def _without_foreign_conditions(current: Status, wanted: Status, dropped: Set[str]) -> Status:
    """`current` with the condition types of `wanted` in the same order, and those `dropped`."""
    there = {condition.type: condition for condition in current.conditions}
    types = (*(condition.type for condition in wanted.conditions), *sorted(dropped))
    ours = tuple(there[kind] for kind in types if kind in there)
    return current.model_copy(update={"conditions": ours})
