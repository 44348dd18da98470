"""What holds for every fleet, whatever admins, agents, kubelets and Pods did before."""

import dataclasses
from collections.abc import Callable

import hypothesis
from hypothesis import strategies as st

from som_api import v1alpha1
from som_api.plan import observed
from som_api.plan.standing import Standing
from unit.operator.world import GIB, World, node, pool, pool_report

Action = Callable[[World], None]

_NAMES = st.sampled_from(["m", "n"])
_LABELS = st.sampled_from([{}, {"size": "big"}, {"size": "new"}])
_SELDOM = st.integers(0, 3).map(lambda number: number == 3)
_POOLS = st.builds(
    pool,
    name=st.sampled_from(["a", "b", "c"]),
    unit=st.sampled_from(["2Mi", "2Mi", "1Gi"]),
    capacity_bytes=st.integers(1, 3).map(lambda count: count * GIB),
    labels=_LABELS,
    everywhere=_SELDOM,
    paused=_SELDOM,
    deleted=_SELDOM,
    generation=st.integers(1, 3),
)


def _node_changes(**fields: object) -> Callable[[str], Action]:
    def change(name: str) -> Action:
        return lambda world: world.put(dataclasses.replace(world.nodes[name], **fields))  # type: ignore[arg-type]

    return change


def _reports(name: str, quarters: int) -> Action:
    """The agent has some of what it was ordered, and unless all, still what it had before."""

    def report(world: World) -> None:
        if name in world.somnodes:
            entries = world.somnodes[name].spec.pools
            wanted = [pool_report(e, capacity_bytes=e.capacity * quarters // 4) for e in entries]
            named = {entry.name for entry in entries}
            kept = [r for r in world.somnodes[name].status.pools if r.name not in named]
            world.report(name, *wanted, *(kept if quarters < 4 else ()))

    return report


_ACTIONS: st.SearchStrategy[Action] = st.one_of(
    _POOLS.map(lambda sompool: lambda world: world.put(sompool)),
    st.sampled_from("abc").map(lambda name: lambda world: world.sompools.pop(name, None)),
    st.sampled_from("abc").map(lambda name: lambda world: world.gone.add(name)),
    st.tuples(_NAMES, _LABELS).map(lambda pair: _node_changes(labels=pair[1])(pair[0])),
    _NAMES.map(_node_changes(boot_id="boot-2")),
    _NAMES.map(_node_changes(units={"2Mi": 0, "1Gi": 0})),
    _NAMES.map(_node_changes(ready=False)),
    st.tuples(_NAMES, st.sampled_from([0, 100, 2000]), st.booleans()).map(
        lambda facts: lambda world: world.bind(facts[0], agent=facts[2], u2Mi=facts[1], u1Gi=1)
    ),
    st.tuples(_NAMES, st.integers(0, 4)).map(lambda pair: _reports(*pair)),
)


@st.composite
def _worlds(draw: st.DrawFn) -> World:
    """Two nodes and their past; mostly, operator and agents came to act in between."""
    world = World.of(node("m"), node("n"), *draw(st.lists(_POOLS, min_size=1, max_size=3)))
    for _ in range(draw(st.integers(2, 6))):
        if not draw(_SELDOM):
            world.operate()
        for name in ("m", "n"):
            if not draw(_SELDOM):
                _reports(name, draw(st.sampled_from([4, 2, 1])))(world)
        if not draw(_SELDOM):
            world.operate()
        draw(_ACTIONS)(world)
    return world


@hypothesis.given(_worlds())
def test_a_plan_that_was_carried_out_plans_no_change(world: World) -> None:
    world.operate()
    for name, planned in world.plans().items():
        assert planned.units == world.nodes[name].units
        somnode = world.somnodes.get(name)
        assert planned.entries == (somnode.spec.pools if somnode else ())


@hypothesis.given(_worlds())
def test_a_unit_of_a_node_is_fed_by_one_pool(world: World) -> None:
    for planned in world.plans().values():
        units = [entry.unit for entry in planned.entries]
        names = [entry.name for entry in planned.entries]
        assert len(set(units)) == len(units)
        assert len(set(names)) == len(names)


@hypothesis.given(_worlds())
def test_no_entry_of_a_frozen_pool_ever_changes(world: World) -> None:
    pools = world.pools
    for name, planned in world.plans().items():
        somnode = world.somnodes.get(name)
        before = somnode.spec.pools if somnode else ()
        frozen = [e for e in before if pools.standing(e.name) is Standing.FROZEN]
        after = [e for e in planned.entries if pools.standing(e.name) is Standing.FROZEN]
        assert after == frozen


def _rivals(*, holder_bytes: int, rival: v1alpha1.SomPool) -> World:
    """Pool b has node n; `rival`, with the lower name, came later."""
    world = World.of(node("n"), pool("b", capacity_bytes=holder_bytes))
    world.settle()
    world.put(rival)
    return world


@hypothesis.given(_worlds(), st.booleans())
@hypothesis.example(_rivals(holder_bytes=2 * GIB, rival=pool("a")), True)
def test_silence_never_lowers_capacity(world: World, somnodes_are_missing: bool) -> None:
    world.operate()
    before = {name: node.units for name, node in world.nodes.items()}
    if somnodes_are_missing:
        world.somnodes.clear()
    for name, somnode in world.somnodes.items():
        world.somnodes[name] = somnode.model_copy(update={"status": v1alpha1.SomNodeStatus()})
    for _ in range(3):
        world.operate()
    for name, units in before.items():
        for unit in observed.UNITS:
            assert world.nodes[name].units.get(unit, 0) == units.get(unit, 0)


@hypothesis.given(_worlds())
def test_capacity_never_falls_below_the_bound_pods(world: World) -> None:
    for name, planned in world.plans().items():
        bound = world.bound.get(name, observed.BoundPods(units={}, runs_agent=False)).units
        for unit in observed.UNITS:
            now = world.nodes[name].units.get(unit, 0)
            assert planned.units[unit] >= min(now, bound.get(unit, 0))


@hypothesis.given(_worlds())
def test_capacity_rises_only_to_what_a_report_of_this_boot_shows(world: World) -> None:
    for name, planned in world.plans().items():
        status = world.somnodes[name].status if name in world.somnodes else None
        for unit in observed.UNITS:
            if planned.units[unit] > world.nodes[name].units.get(unit, 0):
                assert status is not None
                assert status.boot_id == world.nodes[name].boot_id
                reserved = sum(pool.capacity for pool in status.pools if pool.unit == unit)
                assert planned.units[unit] * v1alpha1.UNIT_BYTES[unit] <= reserved


@hypothesis.given(_worlds())
def test_every_match_is_counted_once(world: World) -> None:
    for name in world.sompools:
        nodes = world.status(name).nodes
        assert nodes.ready + nodes.degraded + nodes.unreachable <= nodes.matched <= 2
