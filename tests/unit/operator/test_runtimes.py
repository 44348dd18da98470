"""Nodes whose container runtime would start containers without their memory."""

import dataclasses

import pytest

from som_api import v1alpha1
from som_api.plan import runtimes
from som_api.plan.reports import State
from unit.operator.world import World, node, pool

OLD = "containerd://1.7.28"
TOLD = (
    "containerd://1.7.28 would start containers without their memory, because it does not look up "
    "CDI devices, so nothing is advertised; upgrade to containerd 2.0 or newer"
)


def settled(runtime: str) -> World:
    world = World.of(pool(), node(runtime=runtime))
    world.settle()
    return world


def test_a_node_with_such_a_runtime_advertises_nothing_and_its_pool_says_why() -> None:
    world = settled(OLD)
    assert world.plan().units == {"2Mi": 0, "1Gi": 0}
    here = world.on_nodes("a")["n"]
    assert (here.state, here.detail) == (State.DEGRADED, TOLD)


def told(runtime: str, *conditions: v1alpha1.Condition) -> tuple[str, str, str] | None:
    """Status, reason and message, where the SomNode has `conditions`."""
    status = v1alpha1.SomNodeStatus(conditions=conditions)
    somnode = v1alpha1.SomNode(metadata=v1alpha1.ObjectMeta(name="n"), status=status)
    found = runtimes.condition(node(runtime=runtime), somnode)
    return None if found is None else (found.status, found.reason, found.message)


def test_the_somnode_says_it_in_a_condition_until_it_is_no_longer_so() -> None:
    assert told("containerd://2.0.0") is None
    assert told(OLD) == ("True", "RuntimeWithoutCDI", TOLD)
    before = v1alpha1.Condition(type="RuntimeUnfit", status="True", reason="RuntimeWithoutCDI")
    assert told("containerd://2.0.0", before) == ("False", "AsExpected", "")


@pytest.mark.parametrize(
    "runtime",
    ["containerd://2.0.0", "containerd://v2.1.4-k3s1", "containerd://10.1", "cri-o://1.33.0", ""],
)
def test_a_runtime_that_is_new_enough_or_not_known_is_no_trouble(runtime: str) -> None:
    assert settled(runtime).plan().units["2Mi"] == 512
    assert runtimes.trouble(node(runtime=runtime)) == ""


def test_what_pods_hold_there_already_stays_in_the_books() -> None:
    world = settled("containerd://2.0.0")
    world.bind(u2Mi=100)
    world.put(dataclasses.replace(world.nodes["n"], runtime=OLD))
    assert world.plan().units["2Mi"] == 100
