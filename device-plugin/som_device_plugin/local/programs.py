"""Who runs, with how much, on which ticket: what kubelet and scheduler know in a cluster.

Everything is in one PodList, which the agent reads as its pods, and the stand-in after a restart.
"""

import dataclasses
import json
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from som_api import SomError, v1alpha1
from som_device_plugin.local import layout, units

NAMESPACE: Final = "som-local"
CONTAINER: Final = "main"
_TICKET_ANNOTATION: Final = "local.som.io/ticket"


class Refused(SomError):
    """The program cannot be admitted; the text says what is missing."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that runs, as a pod of one container."""

    name: str
    uid: str
    request: units.Request
    ticket: str

    @classmethod
    def new(cls, program: str, asked: units.Request) -> Self:
        """A pod named after the program; its ticket is chosen at admission."""
        stem = re.sub("[^a-z0-9]+", "-", program.lower()).strip("-")[:40] or "program"
        return cls(f"{stem}-{secrets.token_hex(3)}", str(uuid.uuid4()), asked, ticket="")

    def to_manifest(self) -> dict[str, Any]:
        """The v1 Pod that an API server would show."""
        limits = {self.request.resource: str(self.request.count), v1alpha1.TICKET_RESOURCE: "1"}
        return {
            "metadata": {
                "namespace": NAMESPACE,
                "name": self.name,
                "uid": self.uid,
                "annotations": {_TICKET_ANNOTATION: self.ticket},
            },
            "spec": {"containers": [{"name": CONTAINER, "resources": {"limits": limits}}]},
            "status": {"phase": "Running"},
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """The pod of what `to_manifest` made."""
        metadata = manifest["metadata"]
        [container] = manifest["spec"]["containers"]
        limits = dict(container["resources"]["limits"])
        del limits[v1alpha1.TICKET_RESOURCE]
        [(resource, count)] = limits.items()
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            request=units.Request.parse(resource, count),
            ticket=metadata["annotations"][_TICKET_ANNOTATION],
        )


def read(state_dir: layout.StateDir) -> list[Program]:
    """The programs that run, as the stand-in wrote last."""
    try:
        listed = json.loads(state_dir.pods.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [Program.from_manifest(manifest) for manifest in listed["items"]]


def write(state_dir: layout.StateDir, pods: Sequence[Program]) -> None:
    """Replace what `read` answers."""
    items = [pod.to_manifest() for pod in pods]
    text = json.dumps({"apiVersion": "v1", "kind": "PodList", "items": items}, indent=2)
    layout.write_atomically(state_dir.pods, text)


def admit(
    asked: units.Request, *, pods: Sequence[Program], status: v1alpha1.SomNodeStatus | None
) -> None:
    """Count the request against what the agent reported, as the scheduler does.

    Raises:
        Refused: the units are not there; says how many are, and who has the others.
    """
    pools = status.pools if status else ()
    capacity_bytes = sum(pool.capacity for pool in pools if pool.unit == asked.unit)
    capacity = capacity_bytes // units.UNIT_BYTES[asked.unit]
    users = [pod for pod in pods if pod.request.unit == asked.unit]
    free = capacity - sum(pod.request.count for pod in users)
    if asked.count > free:
        held = ", ".join(f"{pod.name} {pod.request.count}" for pod in users[:8])
        raise Refused(
            f"{asked.resource}: {asked.count} requested, {max(free, 0)} free of {capacity}"
            + (f" (in use: {held})" if held else "")
            + ("" if capacity else "; no pool has this unit: see `som local status`")
        )
