"""Whether a node's container runtime gives containers what their leases say. Pure.

The runtime has to look up the CDI device of a lease when it makes a container. containerd does so
from 2.0 on, and CRI-O; one that does not would start the container without its memory. Only the
version is known here, not the configuration: `enable_cdi = false` of containerd 2 is not seen.
"""

import re
from typing import Final

from som_api import v1alpha1
from som_api.plan import observed

CONDITION: Final = "RuntimeUnfit"

# containerd 1.7 looks devices up if it is told to, but Kubernetes 1.36 runs on none before 2.0.
_WITHOUT_CDI: Final = re.compile(r"containerd://v?[01]\.")


def trouble(node: observed.Node) -> str:
    """What is the matter with the runtime, and what to do; "" where nothing is known to be."""
    if not _WITHOUT_CDI.match(node.runtime):
        return ""
    return (
        f"{node.runtime} would start containers without their memory, because it does not look up "
        "CDI devices, so nothing is advertised; upgrade to containerd 2.0 or newer"
    )


def condition(node: observed.Node, somnode: v1alpha1.SomNode) -> v1alpha1.Condition | None:
    """The condition of the node's SomNode; None where nothing has to be said."""
    message = trouble(node)
    if not message and all(told.type != CONDITION for told in somnode.status.conditions):
        return None
    return v1alpha1.Condition(
        type=CONDITION,
        status="True" if message else "False",
        reason="RuntimeWithoutCDI" if message else "AsExpected",
        message=message,
    )
