"""Pods of the scenes: they run `static/workload.c` as unprivileged as a pod can be."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.harness import images
from cluster.harness.cluster import Cluster
from cluster.harness.errors import ClusterError

UNIT_BYTES = 2 << 20
GOLDEN = Path(__file__).parent.parent / "golden" / "describe"
RESTRICTED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}

Manifest = Mapping[str, Any]


def container(
    *steps: str, units: int = 0, name: str = "main", resource: str = "som.io/2Mi", **more: Any
) -> Manifest:
    """A container that does `steps` with `units` of som memory."""
    limits = {resource: str(units)} if units else {}
    return {
        "name": name,
        "image": images.WORKLOAD,
        "args": list(steps),
        "resources": {"limits": limits},
        "securityContext": RESTRICTED,
        **more,
    }


def pod(
    name: str, *containers: Manifest, namespace: str = "default", grace_s: int = 1, **spec: Any
) -> Manifest:
    """A pod that the restricted Pod Security standard admits."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": pod_spec(*containers, grace_s=grace_s, **spec),
    }


def pod_spec(*containers: Manifest, grace_s: int = 1, **spec: Any) -> Manifest:
    return {
        "terminationGracePeriodSeconds": grace_s,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        **spec,
    }


def stateful_set(name: str, *containers: Manifest, **spec: Any) -> Manifest:
    """A StatefulSet of one pod, NAME-0."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod_spec(*containers, **spec)}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {"serviceName": name, "selector": {"matchLabels": labels}, "template": template},
    }


def uid(cluster: Cluster, name: str) -> str:
    return str(cluster.get("pod", name)["metadata"]["uid"])


def wait_ready(
    cluster: Cluster, *names: str, namespace: str = "default", limit_s: int = 90
) -> None:
    words = ["--for=condition=Ready", f"--timeout={limit_s}s", f"--namespace={namespace}"]
    cluster.kubectl("wait", *words, *(f"pod/{name}" for name in names))


def wait_output(
    cluster: Cluster, name: str, line: str, *, container: str = "", namespace: str = "default"
) -> list[str]:
    """All lines of a container once one of them is `line`."""

    def lines() -> list[str]:
        found = cluster.logs(name, container=container, namespace=namespace).splitlines()
        return found if line in found else []

    return cluster.wait_for(f"{name} to print {line!r}", lines, deadline_s=90)


def ask(cluster: Cluster, name: str, *steps: str, container: str = "main") -> list[str]:
    """Do steps in a second process of a running container; return the lines it printed.

    kubelet has to know the pod, which takes it a moment after its own start.
    """
    words = ["exec", name, f"--container={container}", "--", "/workload", *steps]
    answer = cluster.wait_for(f"{name} to answer", lambda: cluster.kubectl(*words))
    return answer.splitlines()


def restarts(cluster: Cluster, name: str) -> int:
    statuses = cluster.get("pod", name)["status"]["containerStatuses"]
    return sum(int(status["restartCount"]) for status in statuses)


def programs(cluster: Cluster, pod_uid: str) -> list[str]:
    """The pids of a pod's programs, as the node knows them."""
    script = """
    for process in $(grep -ls "$1" /proc/[0-9]*/cgroup); do
        process=${process%/cgroup}
        [ "$(readlink $process/exe)" != /workload ] || echo ${process#/proc/}
    done
    """
    return cluster.on_node(["sh", "-c", script, "programs", pod_uid]).split()


def kill_programs(cluster: Cluster, pod_uid: str) -> None:
    """SIGKILL the programs of a pod, so that kubelet starts its containers again."""
    cluster.on_node(["kill", "-KILL", *programs(cluster, pod_uid)])


def kill(cluster: Cluster, name: str) -> None:
    kill_programs(cluster, uid(cluster, name))


def delete(cluster: Cluster, *names: str, wait: bool = True) -> None:
    cluster.kubectl("delete", "pod", *names, f"--wait={str(wait).lower()}", "--timeout=90s")


def pool_status(cluster: Cluster, pool: str) -> Mapping[str, str]:
    """capacity, allocated and free of a pool as the node's agent reports them."""
    pools: Sequence[Mapping[str, str]] = cluster.get("somnode", "node1")["status"]["pools"]
    return next(status for status in pools if status["name"] == pool)


def wait_allocated(cluster: Cluster, pool: str, quantity: str, *, limit_s: float = 60) -> None:
    cluster.wait_for(
        f"{pool} to have {quantity} allocated",
        lambda: pool_status(cluster, pool)["allocated"] == quantity,
        deadline_s=limit_s,
    )


def warnings(cluster: Cluster, name: str, *, kind: str = "pod") -> str:
    """The warnings at the end of `kubectl describe`, each once and without what varies.

    Whether the node controller has seen a kubelet that was not ready after its start varies, too.
    """
    text = cluster.kubectl("describe", kind, name)
    lines = [
        re.split(r"\s{2,}", line.strip(), maxsplit=4)
        for line in text.partition("Events:")[2].splitlines()
        if line.strip().startswith("Warning")
    ]
    told = {
        f"{warning} {reason} {by}: {message}"
        for warning, reason, _, by, message in lines
        if by != "node-controller"
    }
    shown = "".join(f"{line}\n" for line in sorted(told))
    shown = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>", shown)
    shown = re.sub(r"endpoint &\{.*\} has", "endpoint <endpoint> has", shown)
    shown = re.sub(r"som.io/lease=[0-9a-f]{16}", "som.io/lease=<lease>", shown)
    return re.sub(r"warming \S+ of", "warming <amount> of", shown)


def wait_warned(cluster: Cluster, name: str, *, kind: str = "pod") -> str:
    """The first warnings that there are."""
    return cluster.wait_for(
        f"a warning of {kind} {name}", lambda: warnings(cluster, name, kind=kind), deadline_s=90
    )


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.txt").read_text()


def wait_golden(cluster: Cluster, name: str, expected: str) -> None:
    """Wait until `kubectl describe pod` warns as golden/describe/EXPECTED.txt says, and no more."""
    with contextlib.suppress(ClusterError):
        cluster.wait_for("the golden", lambda: warnings(cluster, name) == golden(expected))
    found = warnings(cluster, name)
    assert found == golden(expected), found
