"""Does what is decided: makes and deletes driver pods."""

import dataclasses
import logging
import pathlib

import yaml

from som_api import SomError, kube, v1alpha1
from som_api.plan import observed
from som_api.run import clock
from som_operator.loading import decide, pods

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Driver:
    """The driver pods of a cluster; `template` is what they are made of."""

    client: kube.Client
    template: pods.Json
    time: clock.Clock

    def due(
        self, node: observed.Node, somnode: v1alpha1.SomNode, pod: pods.Pod | None
    ) -> decide.Decision:
        """What `node` is due."""
        image = pods.image(self.template)
        return decide.decide(node, somnode, pod, image=image, now=self.time.now())

    async def act(
        self,
        decision: decide.Decision,
        node: observed.Node,
        somnode: v1alpha1.SomNode,
        pod: pods.Pod | None,
    ) -> None:
        """Carry it out. Raises KubeError; a cache that lags behind is a race."""
        if decision.delete and pod:
            await self.delete(pod)
        if decision.create:
            await self.create(node, somnode, decision.create, attempt=decision.attempt)

    async def create(
        self, node: observed.Node, somnode: v1alpha1.SomNode, task: pods.Task, *, attempt: int = 1
    ) -> None:
        """Have a pod do `task`. Raises KubeError."""
        pod = pods.make(
            self.template,
            node=node.name,
            somnode_uid=somnode.metadata.uid,
            task=task,
            boot_id=node.boot_id,
            attempt=attempt,
        )
        await self.client.create(kube.PODS.path(namespace=self._namespace), pod)
        _log.info("driver pod made", extra={"node": node.name, "task": task, "attempt": attempt})

    async def delete(self, pod: pods.Pod) -> None:
        """That pod and no other; done as soon as it has ended. Raises KubeError."""
        path = kube.PODS.path(namespace=self._namespace, name=pods.name(pod.node))
        try:
            await self.client.delete(path, uid=pod.uid)
        except kube.KubeError as error:
            if error.status != 404:
                raise

    @property
    def _namespace(self) -> str:
        return str(self.template["metadata"]["namespace"])


def read_template(path: pathlib.Path) -> pods.Json:
    """The pod in a file. Raises SomError."""
    try:
        template: pods.Json = yaml.safe_load(path.read_text())
        pods.image(template)
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise SomError(
            f"read the driver's pod in {path}: {error}; the chart writes it: ConfigMap som-driver"
        ) from error
    return template
