"""Being without som's admission policies, as on a cluster where somebody has deleted them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from cluster.harness.cluster import Cluster
from cluster.scenes import pods

TICKETS = "mutatingadmissionpolicybinding/som-tickets"
REFUSALS = "validatingadmissionpolicybinding/som-pods"


@contextlib.contextmanager
def away(cluster: Cluster, binding: str) -> Iterator[None]:
    """Be without a policy; what it does has ended, or begun again, when this returns."""
    manifest = cluster.kubectl("get", binding, "--output=json")
    before = _verdict(cluster)
    cluster.kubectl("delete", binding)
    try:
        cluster.wait_for(f"{binding} to end", lambda: _verdict(cluster) != before)
        yield
    finally:
        cluster.kubectl("create", "--filename=-", stdin=manifest)
    cluster.wait_for(f"{binding} to work again", lambda: _verdict(cluster) == before)


def _verdict(cluster: Cluster) -> str:
    """What becomes of a pod that requests units: "ticket", "none" or "refused"."""
    asking = json.dumps(pods.pod("asking", pods.container("hold", units=1)))
    words = ["create", "--dry-run=server", "--output=yaml", "--filename=-"]
    created = cluster.kubectl(*words, stdin=asking, check=False)
    if not created:
        return "refused"
    return "ticket" if "som.io/ticket" in created else "none"
