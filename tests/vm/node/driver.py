"""som.ko on the node: what the operator tells of it, and what the kernel has."""

from __future__ import annotations

from vm.node.machine import VirtualCluster

LOADS_S = 60


def told(cluster: VirtualCluster) -> tuple[str, str]:
    """What the condition DriverLoaded of the node says."""
    conditions = cluster.get("somnode", "node1").get("status", {}).get("conditions", ())
    found = ((c["status"], c["reason"]) for c in conditions if c["type"] == "DriverLoaded")
    return next(found, ("", ""))


def wait_told(cluster: VirtualCluster, *wanted: str, deadline_s: float = LOADS_S) -> None:
    cluster.wait_for(
        f"DriverLoaded to be {wanted}", lambda: told(cluster) == wanted, deadline_s=deadline_s
    )


def loaded(cluster: VirtualCluster) -> str:
    """The version of som.ko that the node's kernel has; "" for none."""
    script = "cat /sys/module/som/version 2>/dev/null || :"
    return cluster.on_node(["sh", "-c", script]).strip()


def leases(cluster: VirtualCluster) -> list[str]:
    """The devices of som.ko's leases, as MAJOR:MINOR."""
    return cluster.on_node(["sh", "-c", "cat /sys/class/som/lease*/dev || :"]).split()


def faults(cluster: VirtualCluster) -> list[str]:
    """Of each lease, the source of its pool, and its faults of 2 MiB and of 1 GiB."""
    script = """cd /sys/class/som && for each in lease*; do
        echo $(cat pool$(cat $each/pool)/source $each/faults_2m $each/faults_1g)
    done"""
    return sorted(cluster.on_node(["sh", "-c", script]).splitlines())
