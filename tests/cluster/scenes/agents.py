"""The agent of the node, from outside: its pod, its process, and being without it."""

from __future__ import annotations

from cluster.harness.cluster import Cluster

NAMESPACE = "som-system"
NOWHERE = '{"spec":{"template":{"spec":{"nodeSelector":{"no-such":"node"}}}}}'
EVERYWHERE = '{"spec":{"template":{"spec":{"nodeSelector":{"no-such":null}}}}}'


def name(cluster: Cluster) -> str:
    pods = cluster.get("pods", namespace=NAMESPACE)
    return next(
        str(pod["metadata"]["name"])
        for pod in pods
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "agent"
        and "deletionTimestamp" not in pod["metadata"]
    )


def wait_ready(cluster: Cluster) -> None:
    cluster.kubectl(
        "rollout", "status", "daemonset/som-agent", f"--namespace={NAMESPACE}", "--timeout=90s"
    )


def wait_tickets(cluster: Cluster) -> None:
    """Wait until kubelet offers tickets, which it does while an agent is registered."""

    def offered() -> bool:
        allocatable = cluster.get("node", "node1")["status"]["allocatable"]
        return str(allocatable.get("som.io/ticket", "0")) != "0"

    cluster.wait_for("tickets to be offered", offered, deadline_s=90)


def restart(cluster: Cluster) -> None:
    """Delete the agent's pod with its grace period and wait for the next one."""
    old = name(cluster)
    cluster.kubectl("delete", "pod", old, f"--namespace={NAMESPACE}", "--timeout=60s")
    cluster.wait_for("another agent", lambda: name(cluster) != old)
    wait_ready(cluster)


def kill(cluster: Cluster) -> None:
    """SIGKILL the agent's process; kubelet starts its container again."""
    agents = cluster.namespaces.run(["pgrep", "--full", "--oldest", "bin/som-agent"])
    cluster.namespaces.run(["kill", "-KILL", *agents.stdout.split()])


def logged(cluster: Cluster, text: str) -> int:
    """How many lines of the agents' logs have `text`; read on the node, without kubelet."""
    script = f"cat /var/log/pods/{NAMESPACE}_som-agent-*/agent/*.log"
    return cluster.namespaces.run(["sh", "-c", script]).stdout.count(text)


def remove(cluster: Cluster) -> None:
    """Be without an agent until `bring_back`."""
    _patch(cluster, NOWHERE)
    cluster.wait_for("the agent's end", lambda: not _exists(cluster))


def bring_back(cluster: Cluster) -> None:
    _patch(cluster, EVERYWHERE)
    cluster.wait_for("an agent", lambda: _exists(cluster))
    wait_ready(cluster)


def _patch(cluster: Cluster, patch: str) -> None:
    cluster.kubectl(
        "patch",
        "daemonset/som-agent",
        f"--namespace={NAMESPACE}",
        "--type=merge",
        f"--patch={patch}",
    )


def _exists(cluster: Cluster) -> bool:
    selector = "--selector=app.kubernetes.io/component=agent"
    return bool(
        cluster.kubectl("get", "pods", f"--namespace={NAMESPACE}", selector, "--output=name")
    )
