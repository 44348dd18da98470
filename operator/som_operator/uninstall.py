"""`som-operator uninstall`: gives every node's memory back before the release is deleted.

Then the driver is unloaded where som has loaded it.

The chart's pre-delete hook runs it, and then helm deletes the agents; or a person runs it. SomPools
stay, without our finalizer and status, and a later installation finds them.

Theory of operation. The run stops the operator first: it would order again what is released.
It withdraws capacity before memory, so that no pod comes in between. Whatever ends the run before
everything is given back, SIGTERM included, it starts the operator again, which restores capacity
and orders: a refused uninstall changes nothing. A run that was killed leaves the operator
stopped; the hook's Job then runs again, and a run that finds the operator stopped starts it, too.

A rendered chart that is applied as text contains the hook's Job. So the Job names helm's release,
and does nothing unless helm's own record says that the release is being uninstalled.
"""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pydantic

from som_api import SomError, kube, v1alpha1
from som_api.plan import observed, reports, standing
from som_operator.loading import decide, pods
from som_operator.loading.driver import Driver

DEPLOYMENT: Final = kube.Resource("apps/v1", "Deployment", "deployments")
SECRETS: Final = kube.Resource("v1", "Secret", "secrets")
OPERATOR: Final = "som-operator"
_OPERATOR_PODS: Final = "app.kubernetes.io/name=som,app.kubernetes.io/component=operator"
_HELM_RELEASE: Final = "meta.helm.sh/release-name"
_POLL_S: Final = 0.5
_RESTORE_S: Final = 20.0
"""Below the 30 s between SIGTERM and SIGKILL."""
_SHOWN: Final = 20
_CURES: Final = f"mend it, delete the Node, or set {reports.SKIP_RELEASE}=true on the SomNode"


class NotUninstalled(SomError):
    """Memory is in use, or was not given back; the message names who and what to do."""


@dataclasses.dataclass(frozen=True)
class Uninstall:
    """One run, in the release's `namespace`, of at most `timeout_s`; progress goes to `say`.

    With a `release`, helm has to be uninstalling it; without, a person wants this. A `driver`
    unloads what it has loaded. `replicas` of the operator are started again after a failure.
    """

    client: kube.Client
    namespace: str
    timeout_s: float
    release: str = ""
    replicas: int = 2
    driver: Driver | None = None
    say: Callable[[str], None] = print
    poll_s: float = _POLL_S

    async def run(self) -> None:
        """Release everything.

        Raises:
            NotUninstalled: containers hold som memory, a node did not give it back in time, or helm
                does not uninstall.
            kube.KubeError: the API server refused.
        """
        if self.release and not await self._helm_uninstalls():
            self.say(
                "nothing is done: helm did not install this, so helm does not uninstall it; "
                "to uninstall, run som-operator uninstall without --release"
            )
            return
        await self._refuse_while_in_use()
        deadline_s = time.monotonic() + self.timeout_s
        try:
            await self._scale(0)
            await self._wait("the operator to stop", self._operator_pods, deadline_s)
            await self._withdraw_capacity()
            await self._refuse_while_in_use()
            await self._order_nothing()
            await self._wait(
                "the nodes to give their memory back", self._nodes_with_memory, deadline_s
            )
            if self.driver:
                await self._wait("the nodes to unload som.ko", self._nodes_with_driver, deadline_s)
            await self._let_go()
        except BaseException:
            await self._start_the_operator()
            raise
        self.say("all som memory is given back")

    async def _helm_uninstalls(self) -> bool:
        """Whether helm's record says so; False where helm has nothing to do with it."""
        labels = f"owner=helm,name={self.release},status=uninstalling"
        async for _ in self._list(SECRETS, namespace=self.namespace, labels=labels):
            return True
        try:
            operator = await self.client.get(self._deployment())
        except kube.KubeError as error:
            if error.status != 404:
                raise
            return False
        if _HELM_RELEASE not in operator["metadata"].get("annotations", {}):
            return False
        raise NotUninstalled(
            f"no Secret of namespace {self.namespace} says that helm uninstalls release "
            f"{self.release} (looked for {labels}). If you do want that: run som-operator "
            "uninstall without --release, with your own rights, then helm uninstall --no-hooks"
        )

    async def _refuse_while_in_use(self) -> None:
        holders = [
            f"pod {item['metadata']['namespace']}/{item['metadata']['name']} on node {pod.node}"
            async for item in self._list(kube.PODS)
            if (pod := observed.decode_pod(item, agent_namespace=self.namespace)) and pod.units
        ]
        # A container of a pod that was deleted by force is known to its agent only.
        async for item in self._list(kube.SOMNODES):
            somnode = _decoded(item)
            allocated_bytes = sum(pool.allocated for pool in somnode.status.pools) if somnode else 0
            name = item["metadata"]["name"]
            if allocated_bytes and not any(
                holder.endswith(f" on node {name}") for holder in holders
            ):
                amount = v1alpha1.format_bytes(allocated_bytes)
                holders.append(f"containers on node {name}, with {amount}")
        if holders:
            shown = holders[:_SHOWN]
            more = [f"and {len(holders) - _SHOWN} more"] if len(holders) > _SHOWN else []
            raise NotUninstalled(
                "\n  ".join(["som memory is in use; delete these first:", *shown, *more])
            )

    def _deployment(self, subresource: str = "") -> str:
        return DEPLOYMENT.path(namespace=self.namespace, name=OPERATOR, subresource=subresource)

    async def _scale(self, replicas: int) -> None:
        """Set the operator's replicas, where there is an operator."""
        try:
            await self.client.merge_patch(
                self._deployment("scale"), {"spec": {"replicas": replicas}}
            )
        except kube.KubeError as error:
            if error.status != 404:
                raise

    async def _start_the_operator(self) -> None:
        """Try for a while: nobody else would start it.

        The number is told, whatever was found: a run that was killed has left none.
        """
        deadline_s = time.monotonic() + _RESTORE_S
        while True:
            try:
                await self._scale(self.replicas)
            except kube.KubeError as error:
                if time.monotonic() > deadline_s or error.status == 403:
                    command = f"kubectl scale deployment {OPERATOR} --replicas={self.replicas}"
                    raise NotUninstalled(
                        f"the operator is stopped and was not started again: {error}; "
                        f"do it by hand: {command} --namespace={self.namespace}"
                    ) from error
                await asyncio.sleep(self.poll_s)
            else:
                return

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

    async def _order_nothing(self) -> None:
        async for item in self._list(kube.SOMNODES):
            path = kube.SOMNODES.path(name=item["metadata"]["name"])
            await self.client.merge_patch(path, {"spec": {"pools": []}})

    async def _nodes_with_memory(self) -> list[str]:
        nodes = {item["metadata"]["name"]: item async for item in self._list(kube.NODES)}
        served = await self._served_nodes()
        waiting = []
        async for item in self._list(kube.SOMNODES):
            name, somnode = item["metadata"]["name"], _decoded(item)
            # A node that is gone has released its memory.
            if name not in nodes:
                continue
            if somnode is None:
                if item["metadata"].get("annotations", {}).get(reports.SKIP_RELEASE) != "true":
                    waiting.append(f"{name} (its SomNode cannot be read: {_CURES})")
                continue
            status = somnode.status
            # An agent that never came took none.
            if status.observed_generation is None:
                continue
            acted = status.observed_generation == somnode.metadata.generation
            node, is_served = observed.decode_node(nodes[name]), name in served
            if (status.pools or not acted) and not reports.is_skipped(
                node, somnode, agent_lost=not is_served
            ):
                silent = "no agent is ready there" if node.ready else "kubelet is not ready"
                cure = "" if node.ready and is_served else f" ({silent}: {_CURES})"
                waiting.append(f"{name}{cure}")
        return waiting

    async def _nodes_with_driver(self) -> list[str]:
        """Those that are about to unload it: the agent says when it is gone."""
        assert self.driver is not None
        nodes = {item["metadata"]["name"]: item async for item in self._list(kube.NODES)}
        labels = ",".join(f"{key}={value}" for key, value in pods.LABELS.items())
        found = self._list(kube.PODS, namespace=self.namespace, labels=labels)
        there = {pod.node: pod async for item in found if (pod := pods.decode(item))}
        served = await self._served_nodes()
        waiting = []
        async for item in self._list(kube.SOMNODES):
            name, somnode = item["metadata"]["name"], _decoded(item)
            if name not in nodes or somnode is None or somnode.status.module is None:
                continue
            node = observed.decode_node(nodes[name])
            is_skipped = reports.is_skipped(node, somnode, agent_lost=name not in served)
            if is_skipped or not decide.is_ours(somnode):
                continue
            decision = self.driver.due(node, somnode, there.get(name))
            try:
                await self.driver.act(decision, node, somnode, there.get(name))
            except kube.KubeError as error:
                if not error.is_race:
                    raise
            why = decision.condition.message if decision.condition else ""
            waiting.append(f"{name} ({why})" if why else name)
        return waiting

    async def _served_nodes(self) -> set[str]:
        pods = [
            observed.decode_pod(item, agent_namespace=self.namespace)
            async for item in self._list(kube.PODS, namespace=self.namespace)
        ]
        return {pod.node for pod in pods if pod and pod.agent_ready}

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
            kept = [name for name in metadata.get("finalizers", ()) if name != standing.FINALIZER]
            if len(kept) < len(metadata.get("finalizers", ())):
                await self.client.merge_patch(path, {"metadata": {"finalizers": kept}})

    async def _wait(
        self, what: str, remaining: Callable[[], Awaitable[list[str]]], deadline_s: float
    ) -> None:
        """Until `remaining` finds nobody any more."""
        said = ""
        while left := await remaining():
            names = ", ".join(left[:_SHOWN])
            if time.monotonic() > deadline_s:
                raise NotUninstalled(
                    f"waited {self.timeout_s:.0f} s for {what}: {names}; "
                    f"kubectl describe somnodes, and the pods in {self.namespace}, say why"
                )
            if names != said:
                said = names
                self.say(f"waiting for {what}: {names}")
            await asyncio.sleep(self.poll_s)

    async def _list(
        self, resource: kube.Resource, *, namespace: str = "", labels: str = ""
    ) -> AsyncIterator[kube.Json]:
        """The items of a collection; of a CRD that is deleted there are none."""
        params = {"labelSelector": labels} if labels else {}
        try:
            async for page in self.client.pages(resource.path(namespace=namespace), params=params):
                for item in page["items"]:
                    yield item
        except kube.KubeError as error:
            if error.status != 404:
                raise


def _decoded(item: kube.Json) -> v1alpha1.SomNode | None:
    """The SomNode, or None where what an agent wrote cannot be read."""
    try:
        return v1alpha1.SomNode.model_validate(item)
    except pydantic.ValidationError:
        return None
