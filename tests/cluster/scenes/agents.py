"""The agent of the node, from outside: its pod, its process, and being without it."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.harness.cluster import Cluster

NAMESPACE = "som-system"
NOWHERE = '{"spec":{"template":{"spec":{"nodeSelector":{"no-such":"node"}}}}}'
EVERYWHERE = '{"spec":{"template":{"spec":{"nodeSelector":{"no-such":null}}}}}'


def name(cluster: Cluster) -> str:
    """The agent's pod; of two, the one that is not being deleted."""
    found = (pod["metadata"] for pod in _pods(cluster))
    return next((str(each["name"]) for each in found if "deletionTimestamp" not in each), "")


def wait_ready(cluster: Cluster) -> None:
    def ready() -> bool:
        pods = _pods(cluster)
        conditions = pods[0]["status"].get("conditions", []) if len(pods) == 1 else []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    cluster.wait_for("one agent, Ready", ready, deadline_s=90)


def wait_tickets(cluster: Cluster) -> None:
    """Wait until kubelet offers tickets, which it does while an agent is registered.

    A kubelet that has just started, or has just lost a plugin, has not said so yet: it would refuse
    a pod for ever that comes by what the node's status says. So only what it says after it has an
    agent counts.
    """
    registered = 'kubelet_device_plugin_registration_total{resource_name="som.io/ticket"}'
    metrics = "--raw=/api/v1/nodes/node1/proxy/metrics"
    cluster.wait_for(
        "an agent to register", lambda: registered in cluster.kubectl("get", metrics), deadline_s=90
    )
    now = datetime.datetime.now(datetime.UTC)

    def offered() -> bool:
        conditions = cluster.get("node", "node1")["status"]["conditions"]
        (heard,) = (each["lastHeartbeatTime"] for each in conditions if each["type"] == "Ready")
        is_news = datetime.datetime.fromisoformat(heard) > now
        return is_news and _offered(cluster, "som.io/ticket") > 0

    cluster.wait_for("tickets to be offered", offered, deadline_s=90)


def wait_units(cluster: Cluster, units: int) -> None:
    """Wait until kubelet offers so many units, which it derives from the node's capacity."""
    cluster.wait_for(
        f"{units} units to be offered", lambda: _offered(cluster, "som.io/2Mi") == units
    )


def _offered(cluster: Cluster, resource: str) -> int:
    return int(cluster.get("node", "node1")["status"]["allocatable"].get(resource, "0"))


def restart(cluster: Cluster) -> None:
    """Delete the agent's pod with its grace period and wait for the next one."""
    old = name(cluster)
    cluster.kubectl("delete", "pod", old, f"--namespace={NAMESPACE}", "--timeout=60s")
    cluster.wait_for("another agent", lambda: name(cluster) not in ("", old))
    wait_ready(cluster)


def kill(cluster: Cluster) -> None:
    """SIGKILL the agent's process, and wait until kubelet has started its container again."""
    before = _restarts(cluster)
    agents = cluster.on_node(["pgrep", "--full", "--oldest", "bin/som-agent"])
    cluster.on_node(["kill", "-KILL", *agents.split()])
    cluster.wait_for("the agent's restart", lambda: _restarts(cluster) > before)


def logged(cluster: Cluster, text: str) -> int:
    """How many lines of the agents' logs have `text`, a pattern; read on the node, without kubelet.

    Kubelet removes the logs of agents that have ended, when it likes.
    """
    script = f"cat /var/log/pods/{NAMESPACE}_som-agent-*/agent/*.log"
    return len(re.findall(text, cluster.on_node(["sh", "-c", script])))


@contextlib.contextmanager
def away(cluster: Cluster) -> Iterator[None]:
    """Be without an agent; kubelet offers no tickets meanwhile."""
    patch = ["patch", "daemonset/som-agent", f"--namespace={NAMESPACE}", "--type=merge"]
    cluster.kubectl(*patch, f"--patch={NOWHERE}")
    try:
        cluster.wait_for("the agent's end", lambda: not _pods(cluster))
        cluster.wait_for("no tickets", lambda: not _offered(cluster, "som.io/ticket"))
        yield
    finally:
        cluster.kubectl(*patch, f"--patch={EVERYWHERE}")
    wait_ready(cluster)


@contextlib.contextmanager
def replaced_by(cluster: Cluster, module: str, *arguments: str) -> Iterator[None]:
    """Have `cluster.scenes.MODULE` between kubelet and the agent; see `between.py`."""
    words = ["env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, "-m"]
    command = cluster.namespaces.enter([*words, f"cluster.scenes.{module}", *arguments])
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as plugin:
        try:
            assert plugin.stdout and plugin.stdout.readline() == "registered\n"
            yield
        finally:
            plugin.communicate()
    wait_tickets(cluster)


def _pods(cluster: Cluster) -> list[Any]:
    selector = "--selector=app.kubernetes.io/component=agent"
    text = cluster.kubectl("get", "pods", f"--namespace={NAMESPACE}", selector, "--output=json")
    return list(json.loads(text)["items"])


def _restarts(cluster: Cluster) -> int:
    return sum(
        int(status["restartCount"])
        for pod in _pods(cluster)
        for status in pod["status"].get("containerStatuses", [])
    )
