"""Kinds of the API server and the paths they are reached by."""

import dataclasses
import datetime
from typing import Any
from urllib import parse

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Resource:
    """One kind as the API server serves it, for example `Resource("v1", "Node", "nodes")`."""

    api_version: str
    kind: str
    plural: str

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of one object, or of a part of one object."""
        prefix = "/apis" if "/" in self.api_version else "/api"
        parts = [prefix, self.api_version]
        if namespace:
            parts += ["namespaces", parse.quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(parse.quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NODES = Resource("v1", "Node", "nodes")
PODS = Resource("v1", "Pod", "pods")
EVENTS = Resource("v1", "Event", "events")
SOMPOOLS = Resource("som.io/v1alpha1", "SomPool", "sompools")
SOMNODES = Resource("som.io/v1alpha1", "SomNode", "somnodes")


@dataclasses.dataclass(frozen=True)
class ObjectRef:
    """One cluster-scoped object, named well enough to write to it and to put an Event on it."""

    resource: Resource
    name: str
    uid: str = ""

    def path(self, *, subresource: str = "") -> str:
        """The URL path of the object, or of its subresource."""
        return self.resource.path(name=self.name, subresource=subresource)


def rfc3339(moment: datetime.datetime) -> str:
    """`moment` (UTC) as Kubernetes writes metav1.Time: whole seconds and a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
