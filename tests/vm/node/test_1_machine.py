"""A kernel of a distribution with cgroup v2, two NUMA nodes, and memory of every kind beside."""

from __future__ import annotations

from vm.memory import DEVDAX, RESERVED
from vm.node.machine import VirtualCluster

MIB = 2**20


def test_cgroups_are_of_version_2_alone(cluster: VirtualCluster) -> None:
    hierarchies = cluster.on_node(["findmnt", "--noheadings", "--output=FSTYPE", "/sys/fs/cgroup"])
    assert hierarchies == "cgroup2\n"
    assert "cgroup" not in cluster.on_node(["findmnt", "--raw", "--output=FSTYPE"]).split()


def test_memory_is_on_two_numa_nodes(cluster: VirtualCluster) -> None:
    assert cluster.on_node(["cat", "/sys/devices/system/node/has_memory"]) == "0-1\n"
    assert cluster.on_node(["cat", "/sys/devices/system/node/has_cpu"]) == "0-1\n"


def test_devdax_device_is_there(cluster: VirtualCluster) -> None:
    size = int(cluster.on_node(["cat", "/sys/bus/dax/devices/dax0.0/size"]))
    # Less what the kernel keeps for its book about the pages.
    assert DEVDAX.bytes - 16 * MIB <= size < DEVDAX.bytes
    assert cluster.on_node(["cat", "/sys/bus/dax/devices/dax0.0/numa_node"]) == "1\n"


def test_reserved_range_is_there_and_not_in_system_ram(cluster: VirtualCluster) -> None:
    ranges = cluster.on_node(["cat", "/proc/iomem"]).splitlines()
    assert f"{RESERVED.start:x}-{RESERVED.start + RESERVED.bytes - 1:x} : Reserved" in ranges
