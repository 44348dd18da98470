"""Takes out of objects and texts what others must not see, before they leave the cluster.

What belongs to others (their pods, the nodes) is copied field by field: what is not named here does
not come along. Of som's own objects everything comes along but what can hold a secret.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

LEFT_OUT: Final = "(left out)"
_SECRETS: Final = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web tokens
    r"|-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password@ of a URL
    r"|(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{8,}"
    r"|(?i:(?<=password=)|(?<=passwd=)|(?<=token=)|(?<=secret=)|(?<=api_key=)|(?<=apikey=))[^\s&\"']+",
    re.S,
)
_ANNOTATIONS: Final = ("som.io/", "meta.helm.sh/", "deployment.kubernetes.io/revision")
_DROPPED: Final = ("managedFields", "data", "stringData", "binaryData", "token", "caBundle")
_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
)
_POD_SPEC: Final = ("nodeName", "nodeSelector", "tolerations", "priorityClassName")
_CONTAINER: Final = ("name", "image", "resources", "restartPolicy")
_POD_STATUS: Final = (
    "phase",
    "reason",
    "message",
    "conditions",
    "containerStatuses",
    "initContainerStatuses",
    "startTime",
    "qosClass",
)
_NODE_SPEC: Final = ("taints", "unschedulable")
_NODE_STATUS: Final = ("capacity", "allocatable", "conditions", "nodeInfo")
_EVENT: Final = (
    "involvedObject",
    "regarding",
    "reason",
    "message",
    "type",
    "count",
    "firstTimestamp",
    "lastTimestamp",
    "eventTime",
    "source",
    "reportingComponent",
)


def text(value: str) -> str:
    """A log or a message, without what looks like a credential."""
    return _SECRETS.sub(LEFT_OUT, value)


def ours(value: Any) -> Any:
    """An object of som's own: without values of environment variables, data and annotations."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [ours(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        if key in _DROPPED:
            continue
        if key == "annotations" and isinstance(inner, dict):
            inner = {name: each for name, each in inner.items() if name.startswith(_ANNOTATIONS)}
        elif key == "env" and isinstance(inner, list):
            inner = [_variable(each) for each in inner]
        found[key] = ours(inner)
    return found


def _variable(variable: Any) -> Any:
    if not isinstance(variable, dict) or "value" not in variable:
        return variable
    return {**variable, "value": LEFT_OUT}


def pod(item: Mapping[str, Any]) -> dict[str, Any]:
    """A pod of somebody else: who, where, how much, and how it stands."""
    spec, status = item.get("spec", {}), item.get("status", {})
    containers = {
        field: [_only(container, _CONTAINER) for container in spec[field]]
        for field in ("initContainers", "containers")
        if spec.get(field)
    }
    return _object(item, {**_only(spec, _POD_SPEC), **containers}, _only(status, _POD_STATUS))


def node(item: Mapping[str, Any]) -> dict[str, Any]:
    """A Node: labels, taints, capacity and conditions."""
    spec, status = item.get("spec", {}), item.get("status", {})
    return _object(item, _only(spec, _NODE_SPEC), _only(status, _NODE_STATUS))


def event(item: Mapping[str, Any]) -> dict[str, Any]:
    """An Event."""
    found: dict[str, Any] = ours(_only(item, _EVENT))
    return found


def _object(item: Mapping[str, Any], spec: Any, status: Any) -> dict[str, Any]:
    metadata = _only(item.get("metadata", {}), _METADATA)
    found: dict[str, Any] = ours({"metadata": metadata, "spec": spec, "status": status})
    return found


def _only(value: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {field: value[field] for field in fields if field in value}
