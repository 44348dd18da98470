"""Which pool a node gets, keeps and loses."""

import dataclasses
from typing import Any, Literal

import pytest

from som_api import v1alpha1
from som_api.plan import observed, pool_status, reports
from som_api.plan.reports import State
from unit.operator.world import CARVED, GIB, SOURCE, World, entries, node, pool, short_report

BIG = {"size": "big"}


def test_a_pool_is_for_the_nodes_that_its_selector_matches() -> None:
    world = World.of(pool(labels=BIG), node("m", labels=BIG), node("n"))
    assert entries(world, "m") == ["a"]
    assert entries(world, "n") == []


def test_an_entry_carries_what_the_pool_wants() -> None:
    world = World.of(pool(capacity_bytes=3 * GIB, generation=7), node())
    (entry,) = world.plan().entries
    assert (entry.capacity, entry.unit, entry.generation) == (3 * GIB, "2Mi", 7)
    assert entry.source.page_bytes == 2 * 2**20


@pytest.mark.parametrize(
    ("source", "driver", "ordered"),
    [
        (SOURCE, None, "HugeTLBFS"),
        (SOURCE, v1alpha1.Driver(type="Kernel"), "Kernel"),
        (CARVED, None, "Kernel"),
    ],
)
def test_an_entry_names_the_driver_that_its_pool_may_leave_out(
    source: v1alpha1.Source, driver: v1alpha1.Driver | None, ordered: str
) -> None:
    world = World.of(pool(source=source, driver=driver), node())
    (entry,) = world.plan().entries
    assert (entry.source, entry.driver) == (source, ordered)


def test_pools_of_two_drivers_may_share_a_node_but_no_unit() -> None:
    pages, carved = pool("a"), pool("b", source=CARVED)
    world = World.of(pages, carved, pool("c", unit="1Gi", source=CARVED), node())
    world.settle()
    assert entries(world) == ["a", "c"]
    assert world.condition("Conflicted", of="b")[:2] == ("True", "Conflicted")
    assert world.condition("Ready", of="b")[2].endswith("n: pool a has this unit here")
    world.put(pool("a", deleted=True))
    world.operate()
    assert entries(world) == ["c"], "the pages of a are not back"
    world.obey()
    assert entries(world) == ["b", "c"]


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        (None, (State.DEGRADED, "0 of 1Gi: som.ko is not loaded")),
        (("Unknown", "Loading", "pod x loads it"), (State.RESERVING, "0 of 1Gi: pod x loads it")),
        (("False", "NoHeaders", "install them"), (State.DEGRADED, "0 of 1Gi: install them")),
        (("True", "Loaded", ""), (State.RESERVING, "0 of 1Gi: the agent has not seen som.ko yet")),
    ],
)
def test_a_pool_that_lacks_som_ko_says_what_becomes_of_it(
    loaded: tuple[Literal["True", "False", "Unknown"], str, str] | None,
    expected: tuple[State, str],
) -> None:
    world = World.of(pool(source=CARVED), node())
    world.operate()
    (entry,) = world.plan().entries
    excuse = "som.ko is not loaded"
    world.report("n", short_report(entry, excuse, capacity_bytes=0, reason="DriverNotLoaded"))
    if loaded:
        status, reason, message = loaded
        told = v1alpha1.Condition(
            type="DriverLoaded", status=status, reason=reason, message=message
        )
        world.tell("n", told)
    here = world.on_nodes("a")["n"]
    assert (here.state, here.detail) == expected


def test_a_pool_without_selector_is_for_nodes_that_run_the_agent() -> None:
    world = World.of(pool(everywhere=True), node("m"), node("n"))
    world.bind("m", agent=True)
    assert entries(world, "m") == ["a"]
    assert entries(world, "n") == []


def test_a_pool_stays_while_the_agent_is_being_replaced() -> None:
    world = World.of(pool(everywhere=True), node())
    world.bind("n", agent=True)
    world.operate()
    world.bind("n", agent=False)
    assert entries(world) == ["a"]


def test_a_node_that_joins_gets_the_pool_and_the_others_stay_as_they_are() -> None:
    world = World.of(pool(), node("m"))
    world.settle()
    before = world.somnodes["m"]
    world.put(node("n"))
    world.operate()
    assert entries(world, "n") == ["a"]
    assert world.somnodes["m"] == before


def test_a_node_that_loses_its_label_loses_the_pool() -> None:
    world = World.of(pool(labels=BIG), node(labels=BIG))
    world.settle()
    world.put(dataclasses.replace(world.nodes["n"], labels={}))
    assert entries(world) == []
    assert world.state() is State.RELEASING


def test_a_pool_gets_memory_only_once_the_finalizer_holds_it() -> None:
    world = World.of(pool(finalizers=()), node())
    assert entries(world) == []


def test_a_finalizer_taken_away_by_hand_changes_nothing_until_it_is_back() -> None:
    world = World.of(pool(), node())
    world.settle()
    world.put(pool(finalizers=(), capacity_bytes=2 * GIB))
    assert world.plan().entries == world.somnodes["n"].spec.pools


def test_a_paused_pool_leaves_every_entry_as_it_is() -> None:
    world = World.of(pool(), node("m"))
    world.settle()
    world.put(pool(paused=True, capacity_bytes=2 * GIB, labels=BIG, generation=2))
    world.put(node("n", labels=BIG))
    assert world.plan("m").entries == world.somnodes["m"].spec.pools
    assert entries(world, "n") == []


def test_a_deleted_pool_leaves_every_node() -> None:
    world = World.of(pool(), node())
    world.settle()
    world.put(pool(deleted=True))
    assert entries(world) == []


def test_a_deleted_pool_that_is_paused_stays() -> None:
    world = World.of(pool(), node())
    world.settle()
    world.put(pool(deleted=True, paused=True))
    assert entries(world) == ["a"]
    assert world.condition("Ready")[1:] == (
        "Paused",
        "the pool is deleted, but paused: set paused: false to release it",
    )


def test_a_pool_that_is_merely_missing_from_the_list_loses_nothing() -> None:
    world = World.of(pool(), node())
    world.settle()
    del world.sompools["a"]
    assert entries(world) == ["a"]


def test_a_pool_of_which_the_server_says_that_it_is_gone_leaves_its_nodes() -> None:
    world = World.of(pool(), node())
    world.settle()
    del world.sompools["a"]
    world.gone.add("a")
    assert entries(world) == []


def test_two_pools_of_different_units_share_a_node() -> None:
    world = World.of(pool("a"), pool("b", unit="1Gi"), node())
    assert entries(world) == ["a", "b"]
    assert world.condition("Conflicted", of="a")[0] == "False"


def test_of_two_pools_of_one_unit_the_lower_name_gets_a_node_that_has_none() -> None:
    world = World.of(pool("b"), pool("a"), node())
    assert entries(world) == ["a"]


def test_of_two_pools_of_one_unit_the_one_that_is_there_keeps_the_node() -> None:
    world = World.of(pool("b"), node())
    world.operate()
    world.put(pool("a"))
    assert entries(world) == ["b"]


def test_pools_in_conflict_name_each_other() -> None:
    world = World.of(pool("a"), pool("b"), node("m"), node("n"))
    world.settle()
    cure = "change a node selector so that each node has one pool per unit"
    expected = "True", "Conflicted", f"same unit as pool b on 2 nodes; {cure}"
    assert world.condition("Conflicted", of="a") == expected
    assert world.condition("Conflicted", of="b")[2].startswith("same unit as pool a on 2 nodes")
    assert world.condition("Ready", of="a")[:2] == ("True", "Reserved")
    assert world.condition("Ready", of="b") == (
        "False",
        "Conflicted",
        "full capacity (1Gi) on 0 of 2 nodes; m: pool a has this unit here; "
        "n: pool a has this unit here",
    )


def test_a_paused_pool_keeps_its_unit_from_others() -> None:
    world = World.of(pool("b"), node())
    world.settle()
    world.put(pool("b", paused=True))
    world.put(pool("a"))
    assert entries(world) == ["b"]
    assert world.state("a") is State.CONFLICTED


def test_a_successor_waits_until_the_agent_has_let_the_predecessor_go() -> None:
    world = World.of(pool("a", labels=BIG), pool("b", labels={"size": "new"}), node(labels=BIG))
    world.settle()
    held = world.somnodes["n"].status.pools
    world.put(dataclasses.replace(world.nodes["n"], labels={"size": "new"}))
    world.operate()
    world.report("n", *held)
    assert entries(world) == []
    assert world.on_nodes("b")["n"].detail == "waits for pool a to give its memory back"
    world.report("n")
    assert entries(world) == ["b"]


def test_a_pool_recreated_with_another_unit_waits_for_its_old_memory() -> None:
    world = World.of(pool("a"), node())
    world.settle()
    held = world.somnodes["n"].status.pools
    world.put(pool("a", unit="1Gi"))
    world.operate()
    world.report("n", *held)
    assert entries(world) == []
    world.report("n")
    (entry,) = world.plan().entries
    assert entry.unit == "1Gi"


def test_the_finalizer_stays_until_no_report_shows_the_pool() -> None:
    world = World.of(pool(), node("m"), node("n"))
    world.settle()
    held = world.somnodes["n"].status.pools
    world.put(pool(deleted=True))
    world.operate()
    world.obey("m")
    world.report("n", *held)
    assert world.holders() == ["n"]
    world.obey("n")
    assert world.holders() == []


def test_the_memory_of_a_deleted_node_counts_as_released() -> None:
    world = World.of(pool(), node("m"), node("n"))
    world.settle()
    del world.nodes["n"]
    assert world.holders() == ["m"]


def test_an_empty_list_of_nodes_releases_nothing() -> None:
    world = World.of(pool(), node())
    world.settle()
    world.nodes.clear()
    assert world.holders() == ["n"]


def test_a_node_out_of_reach_is_named_while_a_pool_is_released() -> None:
    world = World.of(pool(), node())
    world.settle()
    world.put(dataclasses.replace(world.nodes["n"], ready=False))
    world.put(pool(deleted=True))
    assert world.condition("Progressing") == (
        "True",
        "Releasing",
        "1 node still has its memory: n: kubelet is not ready; to skip the node: "
        "kubectl annotate somnode n som.io/skip-release=true",
    )


def test_a_node_out_of_reach_is_skipped_where_an_admin_says_so() -> None:
    world = World.of(pool(), node())
    world.settle()
    world.put(dataclasses.replace(world.nodes["n"], ready=False))
    world.put(pool(deleted=True))
    world.annotate("n", reports.SKIP_RELEASE, "true")
    assert world.holders() == ["n"], "the order is not taken back yet"
    world.operate()
    assert world.plan().entries == ()
    assert world.holders() == []
    assert world.condition("Progressing")[2] == (
        "1 node still has its memory: n: kubelet is not ready; skipped, "
        "because som.io/skip-release is true"
    )


@pytest.mark.parametrize(("ready", "value"), [(True, "true"), (False, "false"), (False, "yes")])
def test_a_node_that_can_answer_or_is_not_annotated_is_waited_for(ready: bool, value: str) -> None:
    world = World.of(pool(), node())
    world.settle()
    world.put(dataclasses.replace(world.nodes["n"], ready=ready))
    world.put(pool(deleted=True))
    world.annotate("n", reports.SKIP_RELEASE, value)
    world.operate()
    assert world.holders() == ["n"]


def test_a_somnode_that_cannot_be_read_holds_the_pools_that_it_names() -> None:
    world = World.of(pool(), node())
    somnode = observed.UnreadableSomNode(frozenset("a"), "why")
    somnodes = {"n": somnode}
    assert pool_status.holders("a", nodes=world.nodes, somnodes=somnodes) == ["n"]
    assert pool_status.holders("b", nodes=world.nodes, somnodes=somnodes) == []


@pytest.mark.parametrize("count", [0, 40])
def test_a_released_pool_says_what_holds_it(count: int) -> None:
    world = World.of(pool(), node())
    world.operate()
    world.obey(allocated_bytes=count * 2**21)
    world.put(pool(deleted=True))
    detail = "containers hold 80Mi" if count else "the agent has not let go yet"
    assert world.condition("Ready")[2].endswith(f"1 node still has its memory: n: {detail}")


def test_planning_a_fleet_takes_a_look_at_each_pool_per_node_and_no_more() -> None:
    looks = 0

    class Labels(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal looks
            looks += 1
            return super().get(key, default)

    def looks_at(count: int) -> int:
        nonlocal looks
        looks = 0
        world = World.of(pool("a", labels=BIG), pool("b", unit="1Gi", labels=BIG))
        for number in range(count):
            world.put(node(f"n{number}", labels=Labels(BIG)))
        world.plans()
        return looks

    assert looks_at(5000) == 100 * looks_at(50) == 2 * 5000


def test_one_node_is_planned_without_a_look_at_the_others() -> None:
    world = World.of(pool(), node("m"), node("n"))
    assert world.plans()["n"] == World.of(pool(), node("n")).plan()
