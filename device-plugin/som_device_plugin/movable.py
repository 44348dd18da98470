"""Whether memory of a pod may move: whether its containers can give it to no device.

A device that was given bare memory cannot be seen (docs/design/0013-memory-that-may-move.md). So
what counts is which devices a container can open: those that its pod asks for, by whatever way a
runtime has to add some, and all of the node where it is privileged.
"""

from collections.abc import Mapping
from typing import Any, Final

from som_api import v1alpha1

_PLAIN: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
_PLAIN_PREFIXES: Final = ("hugepages-", f"{v1alpha1.GROUP}/")
_ALL_DEVICES: Final = frozenset({"ALL", "SYS_ADMIN"})


def by_spec(manifest: Mapping[str, Any]) -> bool:
    """Whether a v1 Pod asks for no device, in any of its containers: they can share what is open.

    A runtime class may add what it likes, and plugins of a runtime read annotations, such as
    `cdi.k8s.io/...` and `devices.nri.io/...`.
    """
    spec = manifest["spec"]
    kinds = ("initContainers", "containers", "ephemeralContainers")
    containers = (each for kind in kinds for each in spec.get(kind) or ())
    annotations = map(str.lower, manifest["metadata"].get("annotations") or {})
    return not (
        spec.get("runtimeClassName")
        or spec.get("resourceClaims")
        or any(map(_shows_devices, spec.get("volumes") or ()))
        or any(key.startswith("cdi") or "device" in key for key in annotations)
        or any(map(_asks_for_devices, containers))
    )


def _shows_devices(volume: Mapping[str, Any]) -> bool:
    path = (volume.get("hostPath") or {}).get("path") or ""
    return bool(path) and [*filter(None, path.split("/"))][:1] in ([], ["dev"])


def _asks_for_devices(container: Mapping[str, Any]) -> bool:
    security = container.get("securityContext") or {}
    added = (security.get("capabilities") or {}).get("add") or ()
    resources = container.get("resources") or {}
    named = {*(resources.get("limits") or ()), *(resources.get("requests") or ())}
    return bool(
        security.get("privileged")
        or any(each.upper().removeprefix("CAP_") in _ALL_DEVICES for each in added)
        or resources.get("claims")
        or any(not each.startswith(_PLAIN_PREFIXES) for each in named - _PLAIN)
    )
