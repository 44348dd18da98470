"""A kernel of a distribution with cgroup v2, two NUMA nodes, and memory of every kind beside."""

from __future__ import annotations

from vm.node.machine import VirtualCluster
from vm.node.memory import DEVDAX, RESERVED


def test_cgroups_are_of_version_2_alone(cluster: VirtualCluster) -> None:
    hierarchies = cluster.on_node(["findmnt", "--noheadings", "--output=FSTYPE", "/sys/fs/cgroup"])
    assert hierarchies == "cgroup2\n"
    assert "cgroup" not in cluster.on_node(["findmnt", "--raw", "--output=FSTYPE"]).split()


def test_memory_is_on_two_numa_nodes(cluster: VirtualCluster) -> None:
    assert cluster.on_node(["cat", "/sys/devices/system/node/has_memory"]) == "0-1\n"
    assert cluster.on_node(["cat", "/sys/devices/system/node/has_cpu"]) == "0-1\n"


def test_devdax_device_is_there(cluster: VirtualCluster) -> None:
    files = [f"/sys/bus/dax/devices/dax0.0/{name}" for name in ("resource", "size", "numa_node")]
    found = cluster.on_node(["cat", *files]).split()
    assert found == [hex(DEVDAX.start), str(DEVDAX.bytes), "1"]


def test_reserved_range_is_there_and_not_in_system_ram(cluster: VirtualCluster) -> None:
    ranges = cluster.on_node(["cat", "/proc/iomem"]).splitlines()
    assert f"{RESERVED.start:x}-{RESERVED.start + RESERVED.bytes - 1:x} : Reserved" in ranges
