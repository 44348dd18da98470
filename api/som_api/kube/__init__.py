"""What every component needs to speak with the API server.

- `connect` gives a `Client`: JSON requests on any path; failures are `KubeError`.
- `Reflector` keeps a cache of a collection by list and watch, and outlives every failure.
- `merge`, `publish`: statuses and conditions by server-side apply, when they changed.
- `Recorder`: Events on objects and Nodes that do not flood.
- `Collector`: how old, how full and how often in vain all this is, for Prometheus.

`run` of Reflector and Recorder lasts until cancelled: start them in one TaskGroup,
and ending that ends them all. Time and jitter can be handed in.
"""

from som_api.kube.client import Client
from som_api.kube.conditions import Emitter, merge, publish
from som_api.kube.connect import connect
from som_api.kube.errors import KubeError
from som_api.kube.events import Recorder, node_ref
from som_api.kube.metrics import Collector
from som_api.kube.reflector import Key, Reflector, Unreadable
from som_api.kube.resource import (
    EVENTS,
    NODES,
    PODS,
    SOMNODES,
    SOMPOOLS,
    Json,
    ObjectRef,
    Resource,
)

__all__ = [
    "EVENTS",
    "NODES",
    "PODS",
    "SOMNODES",
    "SOMPOOLS",
    "Client",
    "Collector",
    "Emitter",
    "Json",
    "Key",
    "KubeError",
    "ObjectRef",
    "Recorder",
    "Reflector",
    "Resource",
    "Unreadable",
    "connect",
    "merge",
    "node_ref",
    "publish",
]
