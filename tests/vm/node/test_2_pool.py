"""som as helm installs it reserves the pool's pages, half on each NUMA node."""

from __future__ import annotations

from vm.node.machine import VirtualCluster


def test_ready_pool_has_its_pages_on_both_numa_nodes(hugetlbfs: VirtualCluster) -> None:
    counters = "/sys/devices/system/node/node[01]/hugepages/hugepages-2048kB/nr_hugepages"
    assert hugetlbfs.on_node(["sh", "-c", f"cat {counters}"]).split() == ["64", "64"]
