"""som.ko on a node, by helm and kubectl alone: loaded, used by a pod, unloaded."""

from __future__ import annotations

import pytest

from cluster.scenes import agents, pods
from som_api import VERSION
from vm.memory import RESERVED
from vm.node.machine import OLDER_MODULE, VirtualCluster

POOL = f"""\
apiVersion: som.io/v1alpha1
kind: SomPool
metadata: {{name: bare}}
spec:
  unit: 2Mi
  capacity: 512Mi
  source: {{external: {{ranges: ["{RESERVED.written}"]}}}}
"""
LOADS_S = 60
ZEROED, ONES = "0", "0x1111111111111111"
UNITS = 32


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


def boot_id(cluster: VirtualCluster) -> str:
    return str(cluster.get("node", "node1")["status"]["nodeInfo"]["bootID"])


@pytest.fixture(scope="module")
def bare(installed: VirtualCluster) -> VirtualCluster:
    """A pool of reserved memory is ordered on a node that has an older som.ko."""
    installed.kubectl("delete", "sompool", "--all", "--timeout=90s")
    installed.on_node(["insmod", OLDER_MODULE])
    installed.apply(POOL)
    return installed


def test_module_is_loaded_and_replaces_an_older_one(bare: VirtualCluster) -> None:
    wait_told(bare, "True", "Loaded")
    assert loaded(bare) == VERSION
    bare.kubectl("wait", "--for=condition=Ready", "sompool/bare", "--timeout=90s")


def test_unprivileged_pod_maps_its_quota_of_memory_without_struct_pages(
    bare: VirtualCluster,
) -> None:
    agents.wait_tickets(bare)
    steps = ("id", "size", "check", ZEROED, "overgrow", "fill", ONES, "hold")
    bare.apply(pods.stateful_set("quota", pods.container(*steps, units=UNITS)))
    assert pods.wait_output(bare, "quota-0", "hold") == [
        "id: uid 10001 gid 0 capabilities 0000000000000000",
        f"size: {UNITS * pods.UNIT_BYTES}",
        "check: same",
        "overgrow: ENOMEM",
        f"fill: {ONES}",
        "hold",
    ]


@pytest.mark.full
def test_after_a_reboot_it_is_loaded_again_and_the_pod_has_zeroed_memory(
    bare: VirtualCluster,
) -> None:
    before, pod = boot_id(bare), pods.uid(bare, "quota-0")
    bare.reboot_node()
    bare.wait_for("another boot", lambda: boot_id(bare) != before)
    bare.wait_for(
        "the module to be loaded", lambda: loaded(bare) == VERSION, deadline_s=3 * LOADS_S
    )
    bare.wait_for("another pod", lambda: pods.uid(bare, "quota-0") != pod)
    assert "check: same" in pods.wait_output(bare, "quota-0", "hold")
    wait_told(bare, "True", "Loaded")


def test_last_pools_end_has_it_unloaded(bare: VirtualCluster) -> None:
    bare.kubectl("delete", "statefulset", "quota", "--timeout=90s")
    bare.kubectl("delete", "sompool", "bare", "--timeout=90s")
    wait_told(bare, "", "")
    assert loaded(bare) == ""
    ranges = bare.on_node(["cat", "/proc/iomem"]).splitlines()
    assert f"{RESERVED.start:x}-{RESERVED.start + RESERVED.bytes - 1:x} : Reserved" in ranges
