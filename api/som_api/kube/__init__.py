"""What every component needs to speak with the API server.

- `connect` gives a `Client`: JSON requests on any path; failures are `KubeError`.
- `Reflector` keeps a cache of a collection by list and watch, and outlives every failure.
- `merge`, `publish`: statuses and conditions by server-side apply, when they changed.
- `Recorder`: Events on objects and Nodes that do not flood.
- `Election`: which of several processes leads; its `fence` keeps the others' writes back.
- `Collector`: how old, how full and how often in vain all this is, for Prometheus.

`run` of Reflector and Recorder lasts until cancelled: start them in one TaskGroup,
and ending that ends them all. Time and jitter can be handed in.
"""

from som_api.kube.client import Client as Client
from som_api.kube.conditions import Emitter as Emitter
from som_api.kube.conditions import merge as merge
from som_api.kube.conditions import publish as publish
from som_api.kube.conditions import stands as stands
from som_api.kube.connect import connect as connect
from som_api.kube.election import Election as Election
from som_api.kube.errors import KubeError as KubeError
from som_api.kube.events import Recorder as Recorder
from som_api.kube.events import node_ref as node_ref
from som_api.kube.fence import Fence as Fence
from som_api.kube.fence import NotLeader as NotLeader
from som_api.kube.metrics import Collector as Collector
from som_api.kube.reflector import Key as Key
from som_api.kube.reflector import Reflector as Reflector
from som_api.kube.reflector import Unreadable as Unreadable
from som_api.kube.resource import EVENTS as EVENTS
from som_api.kube.resource import NODES as NODES
from som_api.kube.resource import PODS as PODS
from som_api.kube.resource import SOMNODES as SOMNODES
from som_api.kube.resource import SOMPOOLS as SOMPOOLS
from som_api.kube.resource import Json as Json
from som_api.kube.resource import ObjectRef as ObjectRef
from som_api.kube.resource import Resource as Resource
from som_api.kube.resource import rfc3339 as rfc3339
