"""A devdax device and donated huge pages, by one owner after the other; all memory goes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.scenes import agents, pods
from vm.node import driver, pools, state
from vm.node.machine import VirtualCluster


@pytest.fixture
def user_of_the_device(som: VirtualCluster, before: state.Memory) -> Iterator[str]:
    """The pid of who has the device open that a pool is to have; the pools of before are gone."""
    gone = ("--ignore-not-found", "--timeout=120s")
    with state.holder(som, "/dev/dax0.0") as pid:
        som.kubectl("delete", "statefulset", "owner", *gone)
        som.apply(pools.DEVDAX_OF_A_PATTERN)
        som.kubectl("delete", "sompool", "examples", "external", "carved", *gone)
        yield pid


def test_external_and_carved_memory_goes_back_and_a_device_in_use_is_not_taken(
    som: VirtualCluster, user_of_the_device: str, before: state.Memory
) -> None:
    pools.wait_told(
        som,
        "devdax",
        "no devdax device is named dax9.*; this node has: dax0.0",
        f"dax0.0 is in use by pid {user_of_the_device} (sleep)",
    )
    state.assert_as_before(som, before)


@pytest.fixture(scope="module")
def owners(som: VirtualCluster) -> VirtualCluster:
    """A pod has had all memory of both pools, and another one has it now."""
    som.apply(pools.DEVDAX, pools.DONATED)
    pools.wait_ready(som, "devdax", "donated")
    agents.wait_tickets(som)
    first = pods.pod("first", *pools.containers("exit", "0"), restartPolicy="Never")
    som.apply(first, pods.pod("next", *pools.containers("hold")))
    return som


def test_one_owner_after_the_other_has_its_quota_of_zeroed_memory(owners: VirtualCluster) -> None:
    pools.assert_said(owners, "next")
    for name in pools.CONTAINERS:
        assert owners.logs("first", container=name).splitlines() == pools.SAID


def test_it_is_mapped_by_the_gib_or_by_the_page(owners: VirtualCluster) -> None:
    assert driver.faults(owners) == ["DevDax 0 1", "HugeTLB 512 0"]


def test_donated_pages_are_given_back(owners: VirtualCluster, before: state.Memory) -> None:
    pods.delete(owners, "first", "next")
    owners.kubectl("delete", "sompool", "donated", "--timeout=120s")
    missing = set(before.taken) - set(state.taken(owners))
    assert all("dax0.0" in line for line in missing), missing


@pytest.mark.full
def test_a_donated_page_of_1_gib_is_mapped_whole(owners: VirtualCluster) -> None:
    owners.apply(pools.DONATED_GIB)
    pools.wait_ready(owners, "gib")
    agents.wait_tickets(owners)
    owners.apply(pods.pod("whole", *pools.containers("hold", names=["1gi"])))
    pools.assert_said(owners, "whole", ["1gi"])
    assert driver.faults(owners) == ["HugeTLB 0 1"]
    pods.delete(owners, "whole")


@pytest.mark.full
def test_last_pools_end_has_the_module_unloaded_and_the_device_bound_to_its_driver(
    owners: VirtualCluster, before: state.Memory
) -> None:
    owners.kubectl("delete", "sompool", "devdax", "gib", "--timeout=90s")
    driver.wait_told(owners, "", "")
    assert driver.loaded(owners) == ""
    state.assert_as_before(owners, before)
