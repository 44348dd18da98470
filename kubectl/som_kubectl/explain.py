"""`kubectl som explain`: why is this not Ready, in sentences with the cure."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from som_api import SomError, v1alpha1
from som_api.plan import observed
from som_kubectl import AMISS, FINE, causes, cluster, kubectl, output, show, troubles

_KINDS: Final = {
    "pool": "pool", "pools": "pool", "sompool": "pool", "sompools": "pool",
    "node": "node", "nodes": "node", "somnode": "node", "somnodes": "node",
    "pod": "pod", "pods": "pod", "po": "pod", "no": "node",
}  # fmt: skip
_BUS_ERROR: Final = 128 + 7
_EVENTS: Final = 5
"""Of so many kinds, the latest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: `said` is what the cluster says about it."""

    subject: str
    what: str
    said: str
    meaning: str
    cure: str = ""


def run(there: cluster.Cluster, name: str, namespace: str, form: str) -> int:
    """Explain what `name` is, `KIND/NAME` or a name alone; the exit status."""
    kind, _, plain = name.rpartition("/")
    if kind and kind not in _KINDS:
        raise SomError(f"{name}: {kind!r} is no kind that can be explained; use pool, node or pod")
    kinds = [_KINDS[kind]] if kind else ["pool", "node", "pod"]
    for each in kinds:
        found = _EXPLAINED[each](there, plain, namespace)
        if found is not None:
            subject = f"{each} {plain}"
            _print(subject, found, form)
            return AMISS if found else FINE
    wanted = " or ".join(kinds)
    where = f" in namespace {namespace or there.own_namespace()}" if "pod" in kinds else ""
    raise SomError(f"explain {name}: there is no {wanted} of this name{where}")


def _print(subject: str, found: Sequence[Finding], form: str) -> None:
    if form:
        output.document({"subject": subject, "findings": output.plain(list(found))}, form)
    elif not found:
        print(f"{subject}: nothing is wrong with it that som knows of")
    else:
        print("\n\n".join(map(_text, found)))


def _text(finding: Finding) -> str:
    lines = [f"{finding.subject}: {finding.what}"]
    lines += [f"  it says:  {finding.said}"] if finding.said else []
    lines += [f"  meaning:  {finding.meaning}."]
    lines += [f"  cure:     {finding.cure}."] if finding.cure else []
    return "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)


def _pool(there: cluster.Cluster, name: str, _: str) -> list[Finding] | None:
    item = kubectl.find(there.program, kubectl.path(cluster.SOMPOOLS, name))
    if item is None:
        return None
    pool = v1alpha1.SomPool.model_validate(item)
    return [
        _finding(f"pool {name}", f"is not Ready: {trouble.reason}", trouble.said, known)
        for trouble in troubles.of_pool(pool)
        for known in [causes.OF_POOLS.get(trouble.reason)]
    ]


def _finding(subject: str, what: str, said: str, cause: causes.Cause | None) -> Finding:
    if cause is None:
        cause = causes.Cause(
            "This version of kubectl som does not know what that means",
            "the message says it; else see docs/how-to/troubleshoot.md of the installed release",
        )
    return Finding(subject, what, said, cause.meaning, cause.cure)


def _node(there: cluster.Cluster, name: str, _: str) -> list[Finding] | None:
    somnode_item, node_item = cluster.together(
        lambda: kubectl.find(there.program, kubectl.path(cluster.SOMNODES, name)),
        lambda: kubectl.find(there.program, kubectl.path(cluster.NODES, name)),
    )
    if somnode_item is None and node_item is None:
        return None
    somnode = cluster.decode_somnode(somnode_item) if somnode_item else None
    node = observed.decode_node(node_item) if node_item else None
    found = [
        _finding(
            f"node {name}",
            f"{trouble.condition or 'it'} {_state(trouble)}: {trouble.reason}",
            trouble.said,
            causes.OF_NODES.get(trouble.condition or trouble.reason),
        )
        for trouble in troubles.of_node(name, somnode, node)
    ]
    if isinstance(somnode, v1alpha1.SomNode):
        found += _pools_there(name, somnode)
    return found + list(_events(there, name))


def _state(trouble: troubles.Trouble) -> str:
    good = troubles.GOOD.get(trouble.condition)
    return "is not as it should be" if good != "True" else "is not True"


def _pools_there(node: str, somnode: v1alpha1.SomNode) -> Iterator[Finding]:
    for pool in somnode.status.pools:
        ready = cluster.condition(pool.conditions, "Ready")
        if ready is not None and ready.status != "True":
            subject = f"pool {pool.name} on node {node}"
            cause = causes.OF_POOLS_ON_A_NODE.get(ready.reason)
            yield _finding(subject, f"is not Ready: {ready.reason}", ready.message, cause)


def _events(there: cluster.Cluster, node: str) -> Iterator[Finding]:
    """What som's agents have told about a node lately; without the right to look, nothing."""
    seen = set[str]()
    for event in reversed(_told(there, "api/v1/events", node, "Node")):
        reason = event.get("reason", "")
        cause = causes.OF_EVENTS.get(reason)
        if cause is not None and reason not in seen and len(seen) < _EVENTS:
            seen.add(reason)
            yield _finding(f"node {node}", f"Event {reason}", event.get("message", ""), cause)


def _told(there: cluster.Cluster, collection: str, name: str, kind: str = "") -> list[kubectl.Json]:
    """The Events on an object, the latest last."""
    fields = f"involvedObject.name={name}" + (f",involvedObject.kind={kind}" if kind else "")
    try:
        found = list(kubectl.items(there.program, collection, fieldSelector=fields))
    except kubectl.Refused as error:
        if error.reason != "Forbidden":
            raise
        return []
    return sorted(found, key=_moment)


def _moment(event: kubectl.Json) -> str:
    series = kubectl.text(event, "series", "lastObservedTime")
    last = series or event.get("lastTimestamp") or event.get("eventTime") or ""
    return str(last)


def _pod(there: cluster.Cluster, name: str, namespace: str) -> list[Finding] | None:
    namespace = namespace or there.own_namespace()
    folder = kubectl.path("api/v1/namespaces", namespace).lstrip("/")
    pod = kubectl.find(there.program, kubectl.path(f"{folder}/pods", name))
    if pod is None:
        found = list(_never_created(there, f"{folder}/events", name))
        return found or None
    events = _told(there, f"{folder}/events", name, "Pod")
    return list(_of_pod(there, pod, events))


def _never_created(there: cluster.Cluster, collection: str, name: str) -> Iterator[Finding]:
    """Why a controller could not create a Pod of this name, or of the controller's."""
    try:
        events = list(kubectl.items(there.program, collection, fieldSelector="reason=FailedCreate"))
    except kubectl.Refused as error:
        if error.reason != "Forbidden":
            raise
        return
    for event in reversed(sorted(events, key=_moment)):
        owner = kubectl.text(event, "involvedObject", "name")
        message = event.get("message", "")
        cause = causes.of_message(message)
        words = re.split(r'[\s"]+', message)
        if cause is not None and (owner == name or name in words or name.startswith(f"{owner}-")):
            yield _finding(f"pod {name}", "cannot be created", message, cause)
            return


def _of_pod(
    there: cluster.Cluster, pod: kubectl.Json, events: Sequence[kubectl.Json]
) -> Iterator[Finding]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    asking = [c for c in pod["spec"]["containers"] if show.requested(c)]
    if not asking:
        said = "none of its containers requests som.io/2Mi or som.io/1Gi"
        yield Finding(f"pod {name}", "has no som memory", said, "It does not concern som")
        return
    subject = f"pod {name}"
    explained = set[str]()
    for what, said in _sayings(status, events):
        cause = causes.of_message(said)
        if cause is not None and cause.meaning not in explained:
            explained.add(cause.meaning)
            yield _finding(subject, what, said, cause)
            if "Insufficient som.io/" in said:
                yield from _free(there, subject, asking)
    for container in asking:
        if v1alpha1.TICKET_RESOURCE not in container.get("resources", {}).get("limits", {}):
            yield _finding(subject, f"container {container['name']}", "", causes.NO_TICKET)
            return
    if not explained:
        yield from _ended(subject, status)
    if node := pod["spec"].get("nodeName"):
        yield from _where(there, node)


def _sayings(status: kubectl.Json, events: Sequence[kubectl.Json]) -> Iterable[tuple[str, str]]:
    """What was said about a Pod that does not run as it should, and who said it."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield "waits for a node", condition.get("message", "")
    if status.get("phase") == "Failed":
        yield f"has failed: {status.get('reason', '')}", status.get("message", "")
    waiting = False
    for container in _containers(status):
        state = (container.get("state") or {}).get("waiting") or {}
        waiting |= bool(state)
        if state:
            reason = state.get("reason", "")
            yield f"container {container['name']} waits: {reason}", state.get("message", "")
    if waiting or status.get("phase") == "Pending":
        for event in reversed(events):
            yield f"Event {event.get('reason', '')}", event.get("message", "")


def _containers(status: kubectl.Json) -> list[kubectl.Json]:
    fields = ("initContainerStatuses", "containerStatuses")
    return [each for field in fields for each in status.get(field) or ()]


def _ended(subject: str, status: kubectl.Json) -> Iterator[Finding]:
    """A program that ended by itself: what som can know about it."""
    for container in _containers(status):
        for field in ("state", "lastState"):
            end = (container.get(field) or {}).get("terminated") or {}
            if end.get("exitCode"):
                code = end["exitCode"]
                cause = causes.BUS_ERROR if code == _BUS_ERROR else causes.FAILED_PROGRAM
                what = f"the program of container {container['name']} fails"
                yield _finding(subject, what, f"exit code {code}", cause)
                return


def _free(
    there: cluster.Cluster, subject: str, asking: Sequence[kubectl.Json]
) -> Iterator[Finding]:
    """What the scheduler does not say: how much one node has."""
    wanted = dict[v1alpha1.Unit, int]()
    for container in asking:
        for unit, count in show.requested(container).items():
            wanted[unit] = wanted.get(unit, 0) + count * v1alpha1.UNIT_BYTES[unit]
    try:
        somnodes = there.somnodes()
    except kubectl.Refused:
        return
    for unit, wanted_bytes in wanted.items():
        most, where = max(_free_there(somnodes, unit), default=(0, ""))
        said = f"it needs {show.amount(wanted_bytes)} of som.io/{unit} on one node"
        meaning = (
            f"The most that one node has free is {show.amount(most)}, on {where}"
            if where
            else f"No node has a pool of unit {unit}"
        )
        yield Finding(subject, "what is free", said, meaning)


def _free_there(
    somnodes: dict[str, cluster.SomNode], unit: v1alpha1.Unit
) -> Iterator[tuple[int, str]]:
    for name, somnode in somnodes.items():
        if isinstance(somnode, v1alpha1.SomNode):
            for pool in somnode.status.pools:
                if pool.unit == unit:
                    yield pool.free, name


def _where(there: cluster.Cluster, node: str) -> Iterator[Finding]:
    """What the pod's node has; without the right to look, nothing."""
    try:
        item = kubectl.find(there.program, kubectl.path(cluster.SOMNODES, node))
    except kubectl.Refused as error:
        if error.reason != "Forbidden":
            raise
        return
    somnode = cluster.decode_somnode(item) if item else None
    for trouble in troubles.of_node(node, somnode, None) if somnode else ():
        if trouble.condition in ("AgentReady", "Degraded", "Blocked", "DriverLoaded"):
            cause = causes.OF_NODES[trouble.condition]
            what = f"{trouble.condition} {_state(trouble)}: {trouble.reason}"
            yield _finding(f"its node {node}", what, trouble.said, cause)


_EXPLAINED: Final = {"pool": _pool, "node": _node, "pod": _pod}
