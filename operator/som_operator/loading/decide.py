"""What a node is due: a pod that loads som.ko, one that unloads it, or none. Pure.

Theory of operation. The agent reports the module that the kernel has; `GOALS` maps that, and
whether a pool needs it, to what is to be done. A pod does it, and its end is the truth until the
agent's next report shows the same. All that is remembered is in the cluster, so that a restart
changes nothing: a pod has its boot, its attempt and its end, and the reason of the condition says
whether som loaded the module: what others have loaded is theirs to unload.

The kernel itself refuses to unload a module with a pool in it. So a decision by a report that is
old costs an attempt, and nothing else.
"""

import dataclasses
import datetime
import enum
import random
from typing import Final, Literal

from som_api import VERSION, v1alpha1
from som_api.plan import observed, reports
from som_api.run import backoff
from som_operator.loading import pods, results

CONDITION: Final = reports.DRIVER_CONDITION
FIRST_RETRY_S: Final = 10.0
LONGEST_RETRY_S: Final = 300.0
CONFIRMED_WITHIN_S: Final = 60.0
"""From a pod's end to the agent's report of the same; agents look every few seconds."""

_LOADING: Final = "Loading"
_POD_FAILED: Final = "PodFailed"
_WRONG_IMAGE: Final = "WrongImage"


class Kernel(enum.Enum):
    """What the kernel of a node has of som.ko, by the agent's report."""

    WITHOUT = enum.auto()
    WANTED = enum.auto()
    OTHER = enum.auto()
    """Another version, and no container holds memory of it."""
    OTHER_HELD = enum.auto()


GOALS: Final[dict[tuple[bool, Kernel], pods.Task | None]] = {
    # (a pool needs it, what is there): what is to be done
    (True, Kernel.WITHOUT): "load",
    (True, Kernel.WANTED): None,
    (True, Kernel.OTHER): "load",
    (True, Kernel.OTHER_HELD): None,
    (False, Kernel.WITHOUT): None,
    # These only where som has loaded it.
    (False, Kernel.WANTED): "unload",
    (False, Kernel.OTHER): "unload",
    (False, Kernel.OTHER_HELD): None,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Publish `condition` (None: there is none), then delete the pod, then create one.

    `attempt` is that of the pod to be created. Decide again after `after_s` at the latest.
    """

    condition: v1alpha1.Condition | None
    delete: bool = False
    create: pods.Task | None = None
    attempt: int = 1
    after_s: float | None = None


def decide(
    node: observed.Node,
    somnode: v1alpha1.SomNode,
    pod: pods.Pod | None,
    *,
    image: str,
    now: datetime.datetime,
) -> Decision:
    """What the node is due, with the `pod` that it has; a pod of another `image` is replaced."""
    told = _told(somnode)
    is_known = somnode.status.boot_id == node.boot_id != ""
    if pod and (pod.boot_id != node.boot_id or pod.image != image):
        return Decision(_standing(somnode, told, is_known), delete=True)
    if pod and pod.ended is None:
        return Decision(_at_work(pod, told))
    if pod and pod.ended and _did(pod) and not (is_known and _confirms(somnode, pod)):
        left_s = _left_s(pod.ended, CONFIRMED_WITHIN_S, now)
        if left_s > 0:
            return Decision(_ended(pod, told), after_s=left_s)
        # It was undone meanwhile: begin again.
        return Decision(_standing(somnode, told, is_known), delete=True)
    if not is_known:
        return Decision(told)
    goal = _goal(somnode, told)
    if pod and pod.ended and not _did(pod) and pod.task == goal:
        left_s = _left_s(pod.ended, _pause_s(pod), now)
        condition = _ended(pod, told)
        if left_s > 0:
            return Decision(condition, after_s=left_s)
        return Decision(condition, delete=True, create=goal, attempt=pod.attempt + 1)
    if pod and pod.task == "load" and _did(pod):
        return Decision(_ended(pod, told), delete=True)
    if pod:
        return Decision(_standing(somnode, told, is_known), delete=True)
    return Decision(_standing(somnode, told, is_known), create=goal)


def is_ours(somnode: v1alpha1.SomNode) -> bool:
    """Whether the module that the node has, or had, was loaded by som, or is to be replaced."""
    told = _told(somnode)
    return told is not None and told.reason in (results.LOADED, results.VERSION_IN_USE)


def _goal(somnode: v1alpha1.SomNode, told: v1alpha1.Condition | None) -> pods.Task | None:
    goal = GOALS[_is_needed(somnode), _kernel(somnode)]
    return None if goal == "unload" and not is_ours(somnode) else goal


def _is_needed(somnode: v1alpha1.SomNode) -> bool:
    """By a pool that is ordered, or that the node still has."""
    ordered = (pool.driver for pool in somnode.spec.pools)
    return "Kernel" in (*ordered, *(pool.driver for pool in somnode.status.pools))


def _kernel(somnode: v1alpha1.SomNode) -> Kernel:
    status = somnode.status
    if status.module is None:
        return Kernel.WITHOUT
    if status.module.version == VERSION:
        return Kernel.WANTED
    return Kernel.OTHER_HELD if _held_bytes(somnode) else Kernel.OTHER


def _held_bytes(somnode: v1alpha1.SomNode) -> int:
    return sum(pool.allocated for pool in somnode.status.pools if pool.driver == "Kernel")


def _did(pod: pods.Pod) -> bool:
    """Whether a pod that has ended did what this operator wants."""
    return pod.succeeded and not _is_wrong(pod)


def _is_wrong(pod: pods.Pod) -> bool:
    """Whether its image is of another release, whose module does not serve our agents."""
    result = pod.result
    return pod.task == "load" and pod.succeeded and result is not None and result.version != VERSION


def _confirms(somnode: v1alpha1.SomNode, pod: pods.Pod) -> bool:
    """Whether the report shows what the pod did."""
    is_there = _kernel(somnode) is Kernel.WANTED
    return is_there if pod.task == "load" else somnode.status.module is None


def _standing(
    somnode: v1alpha1.SomNode, told: v1alpha1.Condition | None, is_known: bool
) -> v1alpha1.Condition | None:
    """The condition by the report alone."""
    if not is_known:
        return told
    kernel, module = _kernel(somnode), somnode.status.module
    if not _is_needed(somnode):
        # What som has loaded is remembered until it is gone.
        return told if module is not None and is_ours(somnode) else None
    if module is None or kernel is Kernel.OTHER:
        return told if told and told.status == "False" else _loading("a pod will load som.ko")
    if kernel is Kernel.WANTED:
        is_told = told is not None and told.status == "True"
        reason = told.reason if told is not None and is_told else results.LOADED_BY_OTHERS
        return _condition("True", reason, f"som.ko {module.version} ({module.src_version})")
    held = v1alpha1.format_bytes(_held_bytes(somnode))
    return _condition(
        "False",
        results.VERSION_IN_USE,
        f"som.ko {module.version} is loaded, and containers hold {held} of it: {VERSION} replaces "
        "it when they have ended",
    )


def _at_work(pod: pods.Pod, told: v1alpha1.Condition | None) -> v1alpha1.Condition | None:
    """While a pod works; what came of the attempt before is said until its end."""
    if pod.task == "unload" or (pod.attempt > 1 and told):
        return told
    waits = f": {pod.trouble}" if pod.trouble else ""
    return _loading(f"pod {pods.name(pod.node)} loads som.ko{waits}")


def _ended(pod: pods.Pod, told: v1alpha1.Condition | None) -> v1alpha1.Condition | None:
    """What a pod that has ended says."""
    result = pod.result
    if pod.task == "unload":
        if told is None or pod.succeeded:
            return told
        message = f"no pool needs it, and it is still there: {_why(pod)}"
        return _condition(told.status, told.reason, message)
    if _did(pod):
        result = result or results.Result(results.LOADED_BY_OTHERS, version=VERSION)
        # Who has loaded it twice found it the second time.
        reason = told.reason if told and told.status == "True" else result.reason
        return _condition("True", reason, f"som.ko {result.version} ({result.src_version})")
    again = (
        f"; tried again within {LONGEST_RETRY_S / 60:.0f} min, or as soon as pod "
        f"{pods.name(pod.node)} is deleted"
    )
    reason = _WRONG_IMAGE if _is_wrong(pod) else result.reason if result else _POD_FAILED
    return _condition("False", reason, f"{_why(pod)}{again}")


def _why(pod: pods.Pod) -> str:
    if pod.result and _is_wrong(pod):
        return (
            f"image {pod.image} has som.ko {pod.result.version}, and {VERSION} is needed: name "
            "this release's image in images.driver of the chart"
        )
    if pod.result:
        return pod.result.message
    return f"pod {pods.name(pod.node)} ended without an answer: {pod.trouble or 'no reason'}"


def _loading(message: str) -> v1alpha1.Condition:
    return _condition("Unknown", _LOADING, message)


def _condition(
    status: Literal["True", "False", "Unknown"], reason: str, message: str
) -> v1alpha1.Condition:
    return v1alpha1.Condition(type=CONDITION, status=status, reason=reason, message=message)


def _told(somnode: v1alpha1.SomNode) -> v1alpha1.Condition | None:
    return next((c for c in somnode.status.conditions if c.type == CONDITION), None)


def _pause_s(pod: pods.Pod) -> float:
    """Before the next attempt: drawn by what it is about, so that a restart draws the same."""
    pauses = backoff.Backoff(
        jitter=random.Random(f"{pod.node} {pod.uid}"),
        first_s=FIRST_RETRY_S * 2 ** min(pod.attempt - 1, 16),
        longest_s=LONGEST_RETRY_S,
    )
    return pauses.next_s()


def _left_s(ended: datetime.datetime, pause_s: float, now: datetime.datetime) -> float:
    """Of a pause that began at `ended`, on a clock that may differ from ours."""
    return min(pause_s, pause_s - (now - ended).total_seconds())
