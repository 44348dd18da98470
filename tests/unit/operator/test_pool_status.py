"""What `kubectl get sompools` and `kubectl wait` see."""

import dataclasses

import hypothesis
from hypothesis import strategies as st

from som_api.plan.reports import PoolOnNode, State
from som_api.plan.tally import Silent, Tally
from unit.operator.world import GIB, World, node, pool, pool_report, short_report


def fleet(count: int) -> World:
    world = World.of(pool(capacity_bytes=4 * GIB), *(node(f"n{i}") for i in range(count)))
    world.settle()
    return world


def test_a_pool_is_ready_when_every_match_has_its_full_capacity() -> None:
    world = fleet(3)
    assert world.condition("Ready") == ("True", "Reserved", "full capacity (4Gi) on 3 of 3 nodes")
    assert world.condition("Progressing")[:2] == ("False", "Settled")
    assert world.condition("Degraded")[:2] == ("False", "AsOrdered")
    status = world.status()
    assert (status.nodes.matched, status.nodes.ready) == (3, 3)
    assert status.capacity == 12 * GIB


def test_allocated_is_the_sum_of_what_containers_hold() -> None:
    world = fleet(2)
    world.obey("n0", allocated_bytes=3 * GIB)
    assert world.status().allocated == 3 * GIB


def test_a_pool_without_nodes_says_why() -> None:
    world = World.of(pool(labels={"size": "big"}), node())
    assert world.condition("Ready")[:2] == ("False", "NoNodes")
    assert "nodeSelector" in world.condition("Ready")[2]


def test_a_pool_is_reserving_until_the_agents_have_reported() -> None:
    world = World.of(pool(), node())
    assert world.condition("Ready") == (
        "False",
        "Reserving",
        "full capacity (1Gi) on 0 of 1 node; n: the agent has not reported yet",
    )
    assert world.condition("Progressing")[:2] == ("True", "Reserving")
    assert world.condition("Degraded")[0] == "False"


def test_a_node_that_could_not_get_its_memory_makes_the_pool_partly_reserved() -> None:
    world = fleet(12)
    (entry,) = world.somnodes["n7"].spec.pools
    world.report("n7", short_report(entry, "no contiguous memory", capacity_bytes=GIB))
    world.operate()
    assert world.condition("Ready")[:2] == ("False", "PartlyReserved")
    assert world.condition("Degraded")[:2] == ("True", "PartlyReserved")
    nodes = world.status().nodes
    assert (nodes.matched, nodes.ready, nodes.degraded) == (12, 11, 1)


def test_a_pool_is_not_ready_while_a_node_has_lost_its_agent() -> None:
    world = fleet(3)
    world.lost_agents.add("n1")
    assert world.condition("Ready") == (
        "False",
        "AgentNotReady",
        "full capacity (4Gi) on 2 of 3 nodes; n1: no agent",
    )
    assert world.condition("Degraded")[:2] == ("True", "AgentNotReady")
    nodes = world.status().nodes
    assert (nodes.matched, nodes.ready, nodes.degraded) == (3, 2, 1)
    assert world.plan("n1").units == {"2Mi": 2048, "1Gi": 0}


def test_a_pool_that_shrinks_is_progressing_until_no_node_has_more() -> None:
    world = fleet(2)
    world.put(pool(capacity_bytes=2 * GIB, generation=2))
    world.operate()
    assert world.condition("Progressing") == (
        "True",
        "Shrinking",
        "n0: 4Gi until 2Gi; n1: 4Gi until 2Gi",
    )
    assert world.condition("Ready")[:2] == ("True", "Reserved")
    world.obey("n0")
    (entry,) = world.somnodes["n1"].spec.pools
    held = pool_report(entry, capacity_bytes=3 * GIB, allocated_bytes=3 * GIB)
    world.report("n1", held)
    assert world.condition("Progressing")[2] == "n1: 3Gi until 2Gi, of which containers hold 3Gi"
    world.obey("n1")
    assert world.condition("Progressing")[:2] == ("False", "Settled")


def test_reports_of_more_than_any_node_has_do_not_end_the_status() -> None:
    world = fleet(3)
    for name in ("n0", "n1", "n2"):
        (entry,) = world.somnodes[name].spec.pools
        most = 2**63 - 1
        world.report(name, pool_report(entry, capacity_bytes=most, allocated_bytes=most))
    assert world.status().capacity == world.status().allocated == 3 * 2**47


def test_a_kubelet_that_is_silent_does_not_make_the_pool_unready() -> None:
    world = fleet(2)
    world.put(dataclasses.replace(world.nodes["n0"], ready=False))
    assert world.condition("Ready")[:2] == ("True", "Reserved")
    assert world.condition("Degraded")[:2] == ("True", "Unreachable")
    nodes = world.status().nodes
    assert (nodes.matched, nodes.ready, nodes.unreachable) == (2, 1, 1)


def test_nothing_is_known_while_every_kubelet_is_silent() -> None:
    world = fleet(1)
    world.put(dataclasses.replace(world.nodes["n0"], ready=False))
    assert world.condition("Ready")[:2] == ("Unknown", "Unreachable")


def test_memory_of_an_earlier_boot_is_not_counted() -> None:
    world = fleet(1)
    world.put(dataclasses.replace(world.nodes["n0"], boot_id="boot-2"))
    assert world.status().capacity == 0
    assert world.condition("Ready")[2].endswith(
        "n0: the agent has not reported since the node booted"
    )


def test_a_paused_pool_says_so_and_keeps_its_readiness() -> None:
    world = fleet(1)
    world.put(pool(capacity_bytes=8 * GIB, paused=True, generation=2))
    assert world.condition("Ready")[:2] == ("True", "Reserved")
    assert world.condition("Progressing")[:2] == ("False", "Paused")
    assert world.status().observed_generation == 2


def test_a_long_list_of_nodes_is_cut_short() -> None:
    world = World.of(pool(), *(node(f"n{i}") for i in range(5000)))
    message = world.condition("Progressing")[2]
    assert message.endswith("; and 4997 more")
    assert len(message) < 300


_HERE = st.builds(
    PoolOnNode,
    state=st.sampled_from(State),
    kubelet_ready=st.booleans(),
    agent_lost=st.booleans(),
    capacity_bytes=st.integers(0, 3),
    allocated_bytes=st.integers(0, 3),
    rivals=st.sampled_from([(), ("a",), ("a", "b")]),
)


@hypothesis.given(st.lists(st.tuples(st.sampled_from("lmn"), st.none() | _HERE), max_size=12))
def test_a_tally_forgets_how_a_node_stood_before(
    changes: list[tuple[str, PoolOnNode | None]],
) -> None:
    kept = Tally()
    for name, here in changes:
        kept.put(name, here)
    fresh = Tally({name: here for name, here in dict(changes).items() if here is not None})
    assert kept.on_nodes == fresh.on_nodes
    for group in (*State, *Silent):
        assert kept.first(group, 2) == fresh.first(group, 2)
        assert kept.count(group) == fresh.count(group)
    assert (kept.capacity_bytes, kept.allocated_bytes) == (
        fresh.capacity_bytes,
        fresh.allocated_bytes,
    )
    assert kept.rivals == fresh.rivals
