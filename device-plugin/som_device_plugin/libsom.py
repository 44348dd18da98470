"""libsom for the containers that ask for it: who asks, what they preload, where it is on the node.

The runtime is told to set LD_PRELOAD, which both glibc and musl read. It replaces what the image
sets (CDI has no other way, and no agent sees the image); what the pod sets is kept, after libsom.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Final

from som_api import SomError
from som_device_plugin import annotations as of_pods

IN_IMAGE: Final = pathlib.Path("/opt/som/libsom/libsom.so")
IN_CONTAINER: Final = "/usr/lib/som/libsom.so"
MOUNT_OPTIONS: Final = ("bind", "ro", "nosuid", "nodev", "rprivate")

MALLOC: Final = "malloc"
"""Annotation: `mimalloc` gives containers with som memory libsom; `none` does not."""

_MOST: Final = 4096


class CannotPreload(SomError):
    """The pod asks for what nobody can give; the text says what to write instead."""


def preload(container: Mapping[str, Any], annotations: Mapping[str, str]) -> str:
    """What the container is to have in LD_PRELOAD; "" if it does not ask for libsom.

    Raises:
        CannotPreload: an allocator that som does not have, or an LD_PRELOAD that kubelet makes up.
    """
    name, wanted = of_pods.of_container(MALLOC, container["name"], annotations, default="none")
    match wanted:
        case "none":
            return ""
        case "mimalloc":
            return ":".join(filter(None, (IN_CONTAINER, _set_by_pod(container))))
        case other:
            raise CannotPreload(
                f"annotation {name} is {other[:64]!r}; som has the allocator mimalloc: write that, "
                "or none"
            )


def _set_by_pod(container: Mapping[str, Any]) -> str:
    # Of two with a name, kubelet takes the last.
    found = [each for each in container.get("env") or () if each["name"] == "LD_PRELOAD"]
    if not found:
        return ""
    value = found[-1].get("value") or ""
    if "valueFrom" in found[-1] or "$" in value or len(value) > _MOST:
        raise CannotPreload(
            "its LD_PRELOAD is not written out in the pod, so som cannot keep it beside libsom: "
            "write the libraries' paths as its value"
        )
    return str(value)


def install(source: pathlib.Path, state_dir: pathlib.Path) -> pathlib.Path | None:
    """Copy libsom from the agent's image to the node, and return where; None: the image has none.

    Replaced by name, so containers that run keep theirs.

    Raises:
        OSError: the node's disk refused it.
    """
    if not source.exists():
        return None
    content = source.read_bytes()
    target = state_dir / "libsom" / source.name
    target.parent.mkdir(mode=0o755, exist_ok=True)
    if not target.exists() or target.read_bytes() != content:
        partial = target.with_suffix(".partial")
        partial.write_bytes(content)
        partial.chmod(0o644)
        partial.replace(target)
    return target
