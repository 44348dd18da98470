"""The pods of this node, from a watch, answered from its cache.

An API server that is away changes nothing: the cache stands, and a pod is gone only when a
complete list or a deletion event says so.
"""

from collections.abc import Sequence
from typing import Final, NoReturn

from som_api import kube, v1alpha1
from som_device_plugin import seams

KEEP_ON_RESTART: Final = f"{v1alpha1.GROUP}/keep-on-restart"
_UNIT_OF_RESOURCE: Final = {v1alpha1.resource_name(unit): unit for unit in v1alpha1.UNIT_BYTES}


class NodePods:
    """`seams.PodSource` of the pods that are bound to `node_name`; `run` keeps it current."""

    def __init__(
        self, client: kube.Client, *, node_name: str, time: kube.Clock | None = None
    ) -> None:
        self._reflector = kube.Reflector(
            client,
            kube.PODS,
            decode=decode_pod,
            on_change=lambda key, old, new: None,
            field_selector=f"spec.nodeName={node_name}",
            time=time,
        )

    @property
    def synced(self) -> bool:
        return self._reflector.synced

    def get(self, *, namespace: str, name: str) -> seams.Pod | None:
        return self._reflector.cache.get(kube.Key(namespace, name))

    def pods(self) -> Sequence[seams.Pod]:
        return list(self._reflector.cache.values())

    async def run(self) -> NoReturn:
        """Follow the node's pods until cancelled."""
        await self._reflector.run()


def decode_pod(item: kube.Json) -> seams.Pod:
    """What the agent needs of a v1 Pod; raises KeyError or ValueError for what is none."""
    metadata, spec = item["metadata"], item["spec"]
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    return seams.Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=seams.PodUid(metadata["uid"]),
        terminal=item.get("status", {}).get("phase") in ("Succeeded", "Failed"),
        containers=tuple(request for container in containers for request in _requests(container)),
        keep_on_restart=metadata.get("annotations", {}).get(KEEP_ON_RESTART) == "true",
    )


def _requests(container: kube.Json) -> list[seams.ContainerRequest]:
    # The API server makes requests and limits of an extended resource equal.
    limits = container.get("resources", {}).get("limits", {})
    counts = {
        unit: v1alpha1.parse_bytes(limits.get(resource, 0))
        for resource, unit in _UNIT_OF_RESOURCE.items()
    }
    # A limit of 0, which templates write, is none.
    return [
        seams.ContainerRequest(name=container["name"], unit=unit, count=count)
        for unit, count in counts.items()
        if count
    ]
