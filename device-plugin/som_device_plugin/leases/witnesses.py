"""Who is asked whose a lease is: the pod source, and kubelet's PodResources."""

import dataclasses
import logging
from collections.abc import Sequence

from som_api import SomError
from som_device_plugin import seams
from som_device_plugin.leases import decide, state

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Witnesses:
    """`own_pod` is the agent's, as kubelet lists it: an answer without it proves nothing."""

    pods: seams.PodSource
    resources: seams.PodResourcesClient
    own_pod: str

    async def view(self, leases: Sequence[state.Lease]) -> decide.PodView:
        """Kubelet is asked only when a lease's pod has gone: that is when its word matters."""
        live = decide.live_uids(self.pods)
        doubtful = any(decide.pod_is_gone(lease, live) for lease in leases)
        answer = None
        if doubtful and self.pods.synced:
            try:
                answer = await self.resources.list()
            except SomError as error:
                log.warning("kubelet's PodResources is silent", extra={"error": str(error)})
        return decide.PodView(
            synced=self.pods.synced,
            live_uids=live,
            resources=answer,
            own_pod=self.own_pod,
            running={
                (pod.uid, container): started_s
                for pod in self.pods.pods()
                for container, started_s in pod.running.items()
            },
            restarts={
                (pod.uid, container): ended_s
                for pod in self.pods.pods()
                for container, ended_s in pod.restarts.items()
            },
        )
