"""This node's SomNode, from a watch of this one object.

A SomNode that is not there orders nothing: what the agent has stands. Memory is taken back by a
spec without the pool, never by an object that has gone. Nor does one order anything that cannot be
read, as a newer operator may write it; the node's report says so.
"""

import dataclasses
import logging
from collections.abc import AsyncIterator

import pydantic

from som_api import kube, v1alpha1
from som_api.run import clock, heartbeats
from som_api.v1alpha1 import faults
from som_device_plugin import changes

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Observed:
    """The SomNode as the API server has it; `spec` is None, and `problem` why, if unreadable."""

    uid: str
    generation: int
    spec: v1alpha1.SomNodeSpec | None
    status: v1alpha1.SomNodeStatus
    problem: str = ""


class NodeOrders:
    """`seams.SpecSource` of the SomNode named `node_name`; `watch` keeps it current.

    `changed` rings when anything of the SomNode has changed.
    """

    def __init__(
        self,
        client: kube.Client,
        *,
        node_name: str,
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock | None = None,
    ) -> None:
        self._key = kube.Key("", node_name)
        self.changed = changes.Changes()
        self.watch = kube.Reflector(
            client,
            kube.SOMNODES,
            decode=decode_somnode,
            on_change=self._take,
            field_selector=f"metadata.name={node_name}",
            beats=beats,
            time=time,
        )

    @property
    def observed(self) -> Observed | None:
        """The SomNode as last seen; None when there is none, or before the first list."""
        return self.watch.cache.get(self._key)

    async def specs(self) -> AsyncIterator[tuple[int, v1alpha1.SomNodeSpec]]:
        """(generation, spec) now and at every change, only the newest; waits in between."""
        delivered, changed = None, self.changed.listen()
        while True:
            changed.clear()
            observed = self.observed
            if observed is not None and observed.spec is not None:
                order = (observed.uid, observed.generation, observed.spec)
                if order != delivered:
                    delivered = order
                    yield observed.generation, observed.spec
                    continue
            await changed.wait()

    def _take(self, key: kube.Key, old: Observed | None, new: Observed | None) -> None:
        if new is None:
            _log.warning("SomNode %s has gone; its last orders stand", key.name)
        self.changed.ring()


def decode_somnode(item: kube.Json) -> Observed:
    """The SomNode of `item`.

    Raises:
        kube.Unreadable: its orders cannot be read; `partly` is the rest.
        KeyError: it has no identity.
    """
    metadata = item["metadata"]
    try:
        status = v1alpha1.SomNodeStatus.model_validate(item.get("status", {}))
    except pydantic.ValidationError:
        # Written by an agent of another version; ours replaces it, and the orders count.
        status = v1alpha1.SomNodeStatus()
    observed = Observed(metadata["uid"], metadata["generation"], spec=None, status=status)
    try:
        spec = v1alpha1.SomNodeSpec.model_validate(item.get("spec", {}))
    except pydantic.ValidationError as error:
        problem = "; ".join(str(fault) for fault in faults.from_pydantic(error).faults)
        partly = dataclasses.replace(observed, problem=problem)
        raise kube.Unreadable(problem, partly=partly) from error
    return dataclasses.replace(observed, spec=spec)
