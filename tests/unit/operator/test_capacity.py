"""Which som capacity a node advertises."""

import dataclasses

import pytest

from som_api.plan.reports import State
from unit.operator.world import GIB, World, node, pool, pool_report, short_report

UNITS = 512  # of 2Mi in a pool of 1Gi


@pytest.fixture
def world() -> World:
    """One node with a pool of 1Gi, reserved and advertised."""
    world = World.of(pool(), node())
    world.settle()
    assert world.plan().units == {"2Mi": UNITS, "1Gi": 0}
    return world


def capacity(world: World) -> int:
    return world.plan().units["2Mi"]


def test_nothing_is_advertised_before_the_agent_has_reported() -> None:
    world = World.of(pool(), node())
    world.operate()
    assert capacity(world) == 0


def test_what_the_agent_has_reserved_so_far_is_advertised(world: World) -> None:
    world = World.of(pool(), node())
    world.operate()
    (entry,) = world.somnodes["n"].spec.pools
    world.report("n", pool_report(entry, capacity_bytes=GIB // 2))
    assert capacity(world) == UNITS // 2
    assert world.on_nodes("a")["n"].detail == "512Mi of 1Gi"


def test_a_report_of_an_earlier_boot_raises_nothing() -> None:
    world = World.of(pool(), node())
    world.operate()
    world.obey()
    world.put(dataclasses.replace(world.nodes["n"], boot_id="boot-2"))
    assert capacity(world) == 0


def test_a_report_on_earlier_orders_raises_nothing(world: World) -> None:
    world.put(pool(capacity_bytes=2 * GIB, generation=2))
    world.operate()
    world.put(dataclasses.replace(world.nodes["n"], units={}))
    assert capacity(world) == 0


def test_a_node_without_boot_id_gets_no_capacity() -> None:
    world = World.of(pool(), node(boot_id=""))
    world.settle()
    assert capacity(world) == 0


def test_capacity_that_kubelet_zeroed_is_put_back(world: World) -> None:
    world.put(dataclasses.replace(world.nodes["n"], units={"2Mi": 0}))
    assert capacity(world) == UNITS


def test_an_agent_that_falls_silent_takes_nothing_away(world: World) -> None:
    world.put(dataclasses.replace(world.nodes["n"], boot_id="boot-2"))
    assert capacity(world) == UNITS


def test_a_report_that_leaves_the_pool_out_takes_nothing_away(world: World) -> None:
    world.report("n")
    assert capacity(world) == UNITS


def test_a_somnode_that_is_missing_takes_nothing_away(world: World) -> None:
    del world.somnodes["n"]
    assert capacity(world) == UNITS


def test_a_paused_pool_whose_somnode_is_missing_loses_nothing(world: World) -> None:
    world.put(pool(paused=True))
    del world.somnodes["n"]
    assert capacity(world) == UNITS


def test_a_somnode_made_again_without_a_paused_pool_takes_nothing_away(world: World) -> None:
    world.put(pool(paused=True))
    world.put(pool("b", unit="1Gi"))
    del world.somnodes["n"]
    world.operate()
    assert [entry.name for entry in world.somnodes["n"].spec.pools] == ["b"]
    assert capacity(world) == UNITS


def test_a_somnode_made_again_for_another_pool_takes_nothing_away_before_the_report() -> None:
    world = World.of(pool("b", capacity_bytes=2 * GIB), node())
    world.settle()
    world.put(pool("a"))
    del world.somnodes["n"]
    world.operate()
    assert [entry.name for entry in world.somnodes["n"].spec.pools] == ["a"]
    assert capacity(world) == 2 * UNITS
    world.obey()
    assert capacity(world) == UNITS


def test_a_report_of_less_lowers_capacity(world: World) -> None:
    (entry,) = world.somnodes["n"].spec.pools
    world.report("n", pool_report(entry, capacity_bytes=GIB // 4))
    assert capacity(world) == UNITS // 4


def test_a_report_of_less_does_not_go_below_the_bound_pods(world: World) -> None:
    (entry,) = world.somnodes["n"].spec.pools
    world.report("n", pool_report(entry, capacity_bytes=0))
    world.bind(u2Mi=100)
    assert capacity(world) == 100


def test_a_shrunk_pool_advertises_less_at_once(world: World) -> None:
    world.put(pool(capacity_bytes=GIB // 2, generation=2))
    assert capacity(world) == UNITS // 2


def test_a_deleted_pool_advertises_only_what_bound_pods_hold(world: World) -> None:
    world.put(pool(deleted=True))
    world.bind(u2Mi=100)
    assert capacity(world) == 100
    world.bind(u2Mi=0)
    assert capacity(world) == 0


def test_a_pod_put_on_a_node_by_hand_raises_nothing(world: World) -> None:
    world.bind(u2Mi=10**9)
    assert capacity(world) == UNITS


def test_a_grown_pool_advertises_what_it_had_until_the_agent_has_more(world: World) -> None:
    world.put(pool(capacity_bytes=2 * GIB, generation=2))
    world.operate()
    assert capacity(world) == UNITS
    world.obey()
    assert capacity(world) == 2 * UNITS


def test_units_of_1gi_are_counted_in_1gi() -> None:
    world = World.of(pool(unit="1Gi", capacity_bytes=3 * GIB), node())
    world.settle()
    assert world.plan().units == {"2Mi": 0, "1Gi": 3}


def test_a_pool_counts_as_reserved_only_when_pods_can_be_scheduled(world: World) -> None:
    assert world.state() is State.RESERVED
    world.put(dataclasses.replace(world.nodes["n"], units={}))
    assert world.state() is State.RESERVING
    assert world.on_nodes("a")["n"].detail == "not in the node's capacity yet"


def test_memory_that_could_not_be_had_is_told_in_the_agents_words(world: World) -> None:
    (entry,) = world.somnodes["n"].spec.pools
    message = "no contiguous memory on NUMA node 1"
    world.report("n", short_report(entry, message, capacity_bytes=GIB // 2))
    assert world.state() is State.DEGRADED
    assert world.condition("Ready") == (
        "False",
        "PartlyReserved",
        f"full capacity (1Gi) on 0 of 1 node; n: 512Mi of 1Gi: {message}",
    )


def test_numbers_that_the_agent_says_already_are_not_said_twice(world: World) -> None:
    (entry,) = world.somnodes["n"].spec.pools
    excuse = "512Mi of 1Gi: the kernel found no more"
    world.report("n", short_report(entry, excuse, capacity_bytes=GIB // 2))
    assert world.on_nodes("a")["n"].detail == excuse


def test_memory_that_is_still_being_taken_is_no_trouble(world: World) -> None:
    (entry,) = world.somnodes["n"].spec.pools
    report = short_report(entry, "so far", capacity_bytes=GIB // 2, reason="Reserving")
    world.report("n", report)
    assert world.state() is State.RESERVING
