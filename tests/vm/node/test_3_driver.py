"""som.ko is loaded where a pool needs it; what the node lacks is told, and nothing is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.scenes import pods
from som_api import VERSION
from vm.node import driver, pools, state
from vm.node.machine import OLDER_MODULE, OLDER_VERSION, VirtualCluster


@pytest.fixture(scope="module")
def bare(hugetlbfs: VirtualCluster) -> VirtualCluster:
    """Pools that need som.ko are ordered on a node that has an older one.

    HugeTLBFS has a pool for the unit of one of them there; neither can have its memory.
    """
    hugetlbfs.on_node(["insmod", OLDER_MODULE])
    hugetlbfs.apply(pools.NOT_EXTERNAL)
    return hugetlbfs


def test_a_unit_that_another_drivers_pool_feeds_stays_with_it(bare: VirtualCluster) -> None:
    pools.wait_told(bare, "external", "same unit as pool examples on 1 node")
    assert driver.loaded(bare) == OLDER_VERSION
    assert pods.pool_status(bare, "examples")["capacity"] == "256Mi"


@pytest.fixture
def user_of_the_older_module(bare: VirtualCluster) -> Iterator[None]:
    with state.holder(bare, "/dev/som_ctl"):
        yield


@pytest.mark.full
def test_an_older_module_in_use_is_told(
    bare: VirtualCluster, user_of_the_older_module: None
) -> None:
    bare.kubectl("delete", "sompool", "examples", "--timeout=90s")
    driver.wait_told(bare, "False", "VersionInUse")
    assert driver.loaded(bare) == OLDER_VERSION


def test_module_is_loaded_and_replaces_an_older_one(bare: VirtualCluster) -> None:
    bare.apply(pools.MORE_THAN_THE_NODE_HAS)
    bare.kubectl("delete", "sompool", "examples", "--ignore-not-found", "--timeout=90s")
    driver.wait_told(bare, "True", "Loaded")
    assert driver.loaded(bare) == VERSION


def test_memory_that_cannot_be_had_is_told_and_nothing_is_taken(
    bare: VirtualCluster, before: state.Memory
) -> None:
    wrong = ("is System RAM; keep it from the kernel", "has no memory behind it")
    pools.wait_told(bare, "external", *wrong)
    pools.wait_told(bare, "carved", "the largest capacity now is")
    assert state.taken(bare) == before.taken
