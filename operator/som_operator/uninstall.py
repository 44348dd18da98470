"""`som-operator uninstall`: gives every node's memory back before the release is deleted.

Run by the chart's pre-delete hook, after which helm deletes the agents. SomPools stay, without
our finalizer and status, and a later installation finds them.

Theory of operation. The operator is stopped first, for it would order again what is released here.
Capacity is withdrawn before memory is, so that no pod comes in between. Whatever fails, the
operator is started again, and it restores capacity and orders: a refused uninstall changes nothing.
"""

import asyncio
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from som_api import kube, v1alpha1
from som_operator import OperatorError, __version__, observed, pools, reports

DEPLOYMENT: Final = kube.Resource("apps/v1", "Deployment", "deployments")
OPERATOR: Final = "som-operator"
_OPERATOR_PODS: Final = "app.kubernetes.io/name=som,app.kubernetes.io/component=operator"
_PAGE: Final = 500
_POLL_S: Final = 0.5
_SHOWN: Final = 20
_CURES: Final = f"mend it, delete the Node, or set {reports.SKIP_RELEASE}=true on the SomNode"


class Refused(OperatorError):
    """Memory is in use, or was not given back; the message names who and what to do."""


async def uninstall(*, kubeconfig: pathlib.Path | None, namespace: str, timeout_s: float) -> None:
    """Connect, and release everything. Raises OperatorError."""
    agent = f"som-uninstall/{__version__}"
    try:
        async with await kube.connect(user_agent=agent, kubeconfig=kubeconfig) as client:
            await Uninstall(client, namespace=namespace, timeout_s=timeout_s).run()
    except kube.KubeError as error:
        raise OperatorError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Uninstall:
    """One run, in the release's `namespace`, of at most `timeout_s`; progress goes to `say`."""

    client: kube.Client
    namespace: str
    timeout_s: float
    say: Callable[[str], None] = print
    poll_s: float = _POLL_S

    async def run(self) -> None:
        """Release everything.

        Raises:
            Refused: containers hold som memory, or a node did not give it back in time.
            kube.KubeError: the API server refused.
        """
        await self._refuse_while_in_use()
        deployment = DEPLOYMENT.path(namespace=self.namespace, name=OPERATOR)
        replicas = (await self.client.get(deployment))["spec"]["replicas"]
        await self.client.merge_patch(deployment, {"spec": {"replicas": 0}})
        try:
            await self._wait("the operator to stop", self._operator_pods)
            await self._withdraw_capacity()
            await self._refuse_while_in_use()
            await self._release_memory()
        except BaseException:
            await self.client.merge_patch(deployment, {"spec": {"replicas": replicas}})
            raise
        await self._let_go()
        self.say("all som memory is given back")

    async def _refuse_while_in_use(self) -> None:
        holders = [
            f"pod {item['metadata']['namespace']}/{item['metadata']['name']} on node {pod.node}"
            async for item in self._list(kube.PODS)
            if (pod := observed.decode_pod(item, agent_namespace=self.namespace)) and pod.units
        ]
        # A container of a pod that was deleted by force is known to its agent only.
        async for item in self._list(kube.SOMNODES):
            node = v1alpha1.SomNode.from_manifest(item)
            allocated_bytes = sum(pool.allocated for pool in node.status.pools)
            if allocated_bytes and not any(
                holder.endswith(f" on node {node.metadata.name}") for holder in holders
            ):
                amount = v1alpha1.format_bytes(allocated_bytes)
                holders.append(f"containers on node {node.metadata.name}, with {amount}")
        if holders:
            shown = holders[:_SHOWN]
            more = [f"and {len(holders) - _SHOWN} more"] if len(holders) > _SHOWN else []
            raise Refused("\n  ".join(["som memory is in use; delete these first:", *shown, *more]))

    async def _operator_pods(self) -> list[str]:
        pods = self._list(kube.PODS, namespace=self.namespace, labels=_OPERATOR_PODS)
        return [item["metadata"]["name"] async for item in pods]

    async def _withdraw_capacity(self) -> None:
        async for item in self._list(kube.NODES):
            node = observed.decode_node(item)
            if node.units:
                gone = {v1alpha1.resource_name(unit): None for unit in node.units}
                path = kube.NODES.path(name=node.name, subresource="status")
                await self.client.merge_patch(path, {"status": {"capacity": gone}})

    async def _release_memory(self) -> None:
        async for item in self._list(kube.SOMNODES):
            path = kube.SOMNODES.path(name=item["metadata"]["name"])
            await self.client.merge_patch(path, {"spec": {"pools": []}})
        await self._wait("the nodes to give their memory back", self._nodes_with_memory)

    async def _nodes_with_memory(self) -> list[str]:
        nodes = {item["metadata"]["name"]: item async for item in self._list(kube.NODES)}
        waiting = []
        async for item in self._list(kube.SOMNODES):
            somnode = v1alpha1.SomNode.from_manifest(item)
            name, status = somnode.metadata.name, somnode.status
            # A node that is gone has released its memory, and an agent that never came took none.
            if name not in nodes or status.observed_generation is None:
                continue
            acted = status.observed_generation == somnode.metadata.generation
            node = observed.decode_node(nodes[name])
            if (status.pools or not acted) and not reports.is_skipped(node, somnode):
                cure = "" if node.ready else f" (kubelet is not ready: {_CURES})"
                waiting.append(f"{name}{cure}")
        return waiting

    async def _let_go(self) -> None:
        """Delete the SomNodes, and leave SomPools as an admin would have written them."""
        async for item in self._list(kube.SOMNODES):
            await self.client.delete(kube.SOMNODES.path(name=item["metadata"]["name"]))
        async for item in self._list(kube.SOMPOOLS):
            metadata = item["metadata"]
            path = kube.SOMPOOLS.path(name=metadata["name"])
            if "status" in item:
                status_path = kube.SOMPOOLS.path(name=metadata["name"], subresource="status")
                await self.client.merge_patch(status_path, {"status": None})
            kept = [name for name in metadata.get("finalizers", ()) if name != pools.FINALIZER]
            if len(kept) < len(metadata.get("finalizers", ())):
                await self.client.merge_patch(path, {"metadata": {"finalizers": kept}})

    async def _wait(self, what: str, remaining: Callable[[], Awaitable[list[str]]]) -> None:
        """Until `remaining` finds nobody any more."""
        deadline_s = time.monotonic() + self.timeout_s
        said = ""
        while left := await remaining():
            names = ", ".join(left[:_SHOWN])
            if time.monotonic() > deadline_s:
                raise Refused(f"waited {self.timeout_s:.0f} s for {what}: {names}")
            if names != said:
                said = names
                self.say(f"waiting for {what}: {names}")
            await asyncio.sleep(self.poll_s)

    async def _list(
        self, resource: kube.Resource, *, namespace: str = "", labels: str = ""
    ) -> AsyncIterator[kube.Json]:
        params: dict[str, str | int | bool] = {"limit": _PAGE}
        if labels:
            params["labelSelector"] = labels
        while True:
            page = await self.client.get(resource.path(namespace=namespace), params=params)
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue")
            if not token:
                return
            params["continue"] = token
