"""Requests of som's own clients to the API server: those it answered, and those in vain."""

from __future__ import annotations

import collections
import datetime
import json
import re

from cluster.harness.cluster import Cluster

IN_VAIN = re.compile(r"^(\S+) stderr F .*(lost sight of \S+|status not reported|Event \S+ is lost)")

Requests = dict[str, list[float]]
"""Times of requests, in seconds since 1970, by client: a pod of ours and what it asks for."""


def answered(cluster: Cluster, *, since: float, until: float) -> Requests:
    """What the API server's audit log has of agents and operators, but for the Lease: that is read
    every 2 s by each replica.
    """
    found: dict[str, dict[str, float]] = collections.defaultdict(dict)
    log = (cluster.namespaces.logs / "audit.log").read_text()
    # The last line may be half written.
    for line in log.rpartition("\n")[0].splitlines():
        entry = json.loads(line)
        at = _seconds(entry["requestReceivedTimestamp"])
        resource = entry["objectRef"]["resource"]
        if since <= at < until and resource != "leases":
            (pod,) = entry["user"]["extra"]["authentication.kubernetes.io/pod-name"]
            what = f"{pod} {entry['verb']} {resource}"
            found[what][entry["auditID"]] = at
    return {what: sorted(times.values()) for what, times in found.items()}


def in_vain(cluster: Cluster, *, since: float, until: float) -> Requests:
    """What agent and operator say that they have tried."""
    found: Requests = collections.defaultdict(list)
    for component in ("agent", "operator"):
        script = f"cd /var/log/pods; grep -H '' som-system_som-{component}-*/{component}/*.log"
        for line in cluster.namespaces.run(["sh", "-c", script]).stdout.splitlines():
            pod, _, rest = line.partition("/")
            told = IN_VAIN.search(rest.partition(":")[2])
            if told and since <= _seconds(told[1]) < until:
                found[f"{pod}: {told[2]}"].append(_seconds(told[1]))
    return found


def most_in(requests: Requests, *, window_s: float) -> dict[str, int]:
    """For each client, the most requests that it sent within any such time."""
    return {
        client: max(sum(begin <= at < begin + window_s for at in times) for begin in times)
        for client, times in requests.items()
    }


def _seconds(timestamp: str) -> float:
    """Of RFC 3339, with more digits than Python reads."""
    return datetime.datetime.fromisoformat(timestamp[:26].rstrip("Z") + "+00:00").timestamp()
