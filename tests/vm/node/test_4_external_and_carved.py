"""Reserved memory and memory that is carved out of System RAM, used by a pod without privileges."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.scenes import agents, pods
from som_api import VERSION
from vm.node import driver, pools, state
from vm.node.machine import VirtualCluster

OWNER = "owner-0"


@pytest.fixture(scope="module")
def owner(som: VirtualCluster, before: state.Memory) -> VirtualCluster:
    """A pod has all memory of both pools."""
    som.kubectl("delete", "sompool", "examples", "--ignore-not-found", "--timeout=90s")
    som.apply(pools.EXTERNAL, pools.CARVED)
    pools.wait_ready(som, "external", "carved")
    agents.wait_tickets(som)
    som.apply(pods.stateful_set("owner", *pools.containers("hold")))
    return som


def test_a_pod_without_privileges_maps_its_quota_and_not_a_chunk_more(
    owner: VirtualCluster,
) -> None:
    pools.assert_said(owner, OWNER)


def test_it_is_mapped_by_the_gib(owner: VirtualCluster) -> None:
    assert driver.faults(owner) == ["Carved 0 1", "External 0 1"]


def test_a_root_of_another_pod_cannot_open_the_leases(owner: VirtualCluster) -> None:
    steps = (word for lease in driver.leases(owner) for word in ("reach", lease))
    stranger = pods.container(*steps, securityContext={})
    owner.apply(pods.pod("stranger", stranger, restartPolicy="Never", securityContext={}))
    assert pods.wait_output(owner, "stranger", "reach: EPERM") == 2 * ["reach: EPERM"]
    pods.delete(owner, "stranger", wait=False)


@pytest.mark.parametrize(
    "disrupt",
    [agents.kill, VirtualCluster.restart_kubelet],
    ids=["agent killed", "kubelet restarted"],
)
def test_the_pod_and_its_memory_are_left_alone(
    owner: VirtualCluster, disrupt: Callable[[VirtualCluster], None]
) -> None:
    before = driver.leases(owner), driver.faults(owner)
    disrupt(owner)
    agents.wait_ready(owner)
    agents.wait_tickets(owner)
    assert (driver.leases(owner), driver.faults(owner)) == before
    assert pods.restarts(owner, OWNER) == 0


@pytest.mark.full
def test_after_a_reboot_it_is_all_there_again_and_the_pod_has_zeroed_memory(
    owner: VirtualCluster,
) -> None:
    def boot_id() -> str:
        return str(owner.get("node", "node1")["status"]["nodeInfo"]["bootID"])

    before, pod = boot_id(), pods.uid(owner, OWNER)
    owner.reboot_node()
    owner.wait_for("another boot", lambda: boot_id() != before)
    owner.wait_for(
        "the module to be loaded",
        lambda: driver.loaded(owner) == VERSION,
        deadline_s=3 * driver.LOADS_S,
    )
    owner.wait_for("another pod", lambda: pods.uid(owner, OWNER) != pod)
    pools.assert_said(owner, OWNER)
    driver.wait_told(owner, "True", "Loaded")


def test_the_next_owner_has_zeroed_memory(owner: VirtualCluster) -> None:
    pod = pods.uid(owner, OWNER)
    pods.delete(owner, OWNER)
    owner.wait_for("another pod", lambda: pods.uid(owner, OWNER) != pod)
    pools.assert_said(owner, OWNER)
