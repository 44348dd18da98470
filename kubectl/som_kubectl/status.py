"""`kubectl som status`: the fleet on one screen, trouble below."""

import dataclasses
from collections.abc import Sequence

from som_kubectl import AMISS, FINE, cluster, kubectl, output, show, table, troubles


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Operator or agents: how many of its pods are ready; `version` "" where nobody says."""

    name: str
    ready: int
    wanted: int


@dataclasses.dataclass(frozen=True)
class Status:
    """Sums over the fleet, and everything that is not as it should be."""

    namespace: str
    parts: Sequence[Part]
    pools: int
    nodes: int
    agent_versions: Sequence[str]
    capacity_bytes: int
    allocated_bytes: int
    free_bytes: int
    troubles: Sequence[troubles.Trouble]


def look(there: cluster.Cluster) -> Status:
    """Ask the cluster."""
    operator, agents, (sompools, unreadable), somnodes, nodes = cluster.together(
        there.operator, there.agents, there.pools, there.somnodes, there.nodes
    )
    found = list[troubles.Trouble]()
    parts = [_part("operator", operator), _part("agents", agents)]
    for part, item in zip(parts, (operator, agents), strict=True):
        if item is None:
            said = "none is there, or you may not see it"
            found.append(troubles.Trouble(part.name, "", "", "NotFound", said))
        elif part.ready < part.wanted:
            said = f"{part.ready} of {part.wanted} pods are ready"
            found.append(troubles.Trouble(part.name, "", "", "NotReady", said))
    for name, problem in unreadable.items():
        found.append(troubles.Trouble("pool", name, "", "Unreadable", problem))
    for sompool in sompools:
        found += troubles.of_pool(sompool)
    rows = show.nodes(somnodes, nodes)
    for row in rows:
        if row.trouble:
            found.append(troubles.Trouble("node", row.name, "", row.trouble, row.message))
    return Status(
        namespace=kubectl.text(operator or agents or {}, "metadata", "namespace"),
        parts=parts,
        pools=len(sompools) + len(unreadable),
        nodes=len(rows),
        agent_versions=sorted({row.agent_version for row in rows if row.agent_version}),
        capacity_bytes=sum(row.capacity_bytes for row in rows),
        allocated_bytes=sum(row.allocated_bytes for row in rows),
        free_bytes=sum(row.free_bytes for row in rows),
        troubles=found,
    )


def _part(name: str, item: kubectl.Json | None) -> Part:
    status = (item or {}).get("status", {})
    if name == "agents":
        return Part(name, status.get("numberReady", 0), status.get("desiredNumberScheduled", 0))
    wanted = (item or {}).get("spec", {}).get("replicas", 1 if item else 0)
    return Part(name, status.get("readyReplicas", 0), wanted)


def show_once(found: Status) -> str:
    """The status for people."""
    parts = ", ".join(f"{part.name} {part.ready}/{part.wanted} ready" for part in found.parts)
    where = f" in namespace {found.namespace}" if found.namespace else ""
    versions = ", ".join(found.agent_versions) or "not known"
    free, held = show.amount(found.free_bytes), show.amount(found.allocated_bytes)
    text = [
        f"som{where}: {parts}; version {versions}",
        f"{show.count(found.pools, 'pool')} on {show.count(found.nodes, 'node')}: "
        f"{show.amount(found.capacity_bytes)} reserved, containers hold {held}, {free} free   "
        f"{table.bar(found.allocated_bytes, found.capacity_bytes)}",
    ]
    if not found.troubles:
        return "\n".join([*text, "all is well"])
    heads = ("KIND", "NAME", "REASON", "MESSAGE")
    rows = [(each.kind, each.name, each.reason, each.said) for each in found.troubles]
    text += ["", *table.lines(table.Table(heads, rows), wide=table.width())]
    first = next((f"{t.kind}/{t.name}" for t in found.troubles if t.name), "")
    if first:
        text += ["", f"what it means and what to do: kubectl som explain {first}"]
    return "\n".join(text)


def show_all(found: Status, form: str) -> None:
    """Print it."""
    if form:
        output.document(output.plain(found), form)
    else:
        print(show_once(found))


def show_status(there: cluster.Cluster, form: str) -> int:
    """Ask, print, and return the exit status."""
    found = look(there)
    show_all(found, form)
    return AMISS if found.troubles else FINE
