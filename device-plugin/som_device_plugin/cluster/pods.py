"""The pods of this node, from a watch, answered from its cache.

An API server that is away changes nothing: the cache stands, and a pod is gone only when a
complete list or a deletion event says so. A pod that cannot be read is there: its identity keeps
its memory, and its container does not start.
"""

import dataclasses
from collections.abc import Sequence

from som_api import kube
from som_api.run import clock, heartbeats
from som_device_plugin import pods, seams


class NodePods:
    """`seams.PodSource` of the pods that are bound to `node_name`; `watch` keeps it current."""

    def __init__(
        self,
        client: kube.Client,
        *,
        node_name: str,
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock | None = None,
    ) -> None:
        self.watch = kube.Reflector(
            client,
            kube.PODS,
            decode=self._decode,
            on_change=lambda key, old, new: None,
            field_selector=f"spec.nodeName={node_name}",
            beats=beats,
            time=time,
        )

    @property
    def synced(self) -> bool:
        return self.watch.synced

    def get(self, *, namespace: str, name: str) -> seams.Pod | None:
        return self.watch.cache.get(kube.Key(namespace, name))

    def pods(self) -> Sequence[seams.Pod]:
        return list(self.watch.cache.values())

    def _decode(self, item: kube.Json) -> seams.Pod:
        try:
            return pods.decode_pod(item)
        except Exception as error:
            raise kube.Unreadable(repr(error), partly=self._partly(item)) from error

    def _partly(self, item: kube.Json) -> seams.Pod:
        """The pod as it was before, or its identity."""
        metadata = item["metadata"]
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        known = self.get(namespace=namespace, name=name)
        if known is None or known.uid != uid:
            known = seams.Pod(namespace, name, uid, terminal=False, containers=())
        return dataclasses.replace(known, terminal=pods.has_ended(item))
