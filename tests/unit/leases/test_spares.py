"""Which memory is built ahead, and which start gets it."""

import collections
import dataclasses

import hypothesis
from hypothesis import strategies

from som_device_plugin import seams
from som_device_plugin.leases import spares

GIB = 2**30
SIZES = strategies.integers(1, 16)
NODES = strategies.integers(0, 1)
WISHES = strategies.lists(strategies.builds(spares.Wish, SIZES, NODES), max_size=8)
PLENTY: dict[int | None, int] = {0: 10**6, 1: 10**6}


@strategies.composite
def some_spares(draw: strategies.DrawFn) -> list[spares.Spare]:
    wishes = draw(WISHES)
    return [spare(str(at), wish.size_bytes, wish.node) for at, wish in enumerate(wishes)]


@strategies.composite
def some_kept(draw: strategies.DrawFn) -> list[spares.Spare]:
    """Spares, some of which are kept for a successor."""
    return [
        dataclasses.replace(each, is_kept=draw(strategies.booleans()))
        for each in draw(some_spares())
    ]


def spare(name: str, size_bytes: int, node: int | None = 0) -> spares.Spare:
    return spares.Spare(seams.LeaseId(name), size_bytes, node)


def test_the_most_important_wish_that_fits_is_built_first() -> None:
    wishes = [spares.Wish(8, 0), spares.Wish(4, 0), spares.Wish(2, 0)]
    assert spares.plan(wishes, [], free_bytes=4, node_bytes=PLENTY).build == spares.Wish(4, 0)
    assert spares.plan(wishes, [], free_bytes=4, node_bytes={0: 3}).build == spares.Wish(2, 0)


def test_a_spare_is_never_ended_for_the_sake_of_another() -> None:
    wishes = [spares.Wish(8, 0), spares.Wish(4, 0)]
    plan = spares.plan(wishes, [spare("a", 4)], free_bytes=4, node_bytes=PLENTY)
    assert plan == spares.Plan()


@hypothesis.given(WISHES, some_spares(), strategies.integers(0, 200))
def test_plans_come_to_an_end_and_never_take_more_than_is_free(
    wishes: list[spares.Wish], there: list[spares.Spare], free_bytes: int
) -> None:
    """Each plan is carried out; what was ended is free, what is built is not."""
    for step in range(len(wishes) + 2):
        plan = spares.plan(wishes, there, free_bytes=free_bytes, node_bytes=PLENTY)
        free_bytes += sum(s.size_bytes for s in there if s.lease_id in plan.end)
        there = [s for s in there if s.lease_id not in plan.end]
        assert step == 0 or not plan.end, "what is wanted stays"
        if plan == spares.Plan():
            break
        if plan.build:
            there.append(spare(f"new-{step}", plan.build.size_bytes, plan.build.node))
            free_bytes -= plan.build.size_bytes
            assert free_bytes >= 0
    assert spares.plan(wishes, there, free_bytes=free_bytes, node_bytes=PLENTY) == spares.Plan()
    wanted = collections.Counter(wishes)
    built = collections.Counter(s.wish for s in there)
    assert built <= wanted
    assert all(wish.size_bytes > free_bytes for wish in wanted - built)


def test_one_piece_of_each_of_the_last_sizes_comes_before_what_ran_at_once() -> None:
    small, large = spares.Wish(1, 0), spares.Wish(8, 0)
    history: spares.History = ()
    for wish, at_once in ((large, 1), (large, 2), (small, 1), (small, 1)):
        history = spares.remember(history, wish, at_once)
    assert spares.expected(history) == [small, large, large]


@hypothesis.given(WISHES)
def test_a_size_that_is_asked_for_again_and_again_pushes_out_no_other(
    wishes: list[spares.Wish],
) -> None:
    history: spares.History = ()
    for wish in (*dict.fromkeys(wishes), *[spares.Wish(99, 0)] * 20):
        history = spares.remember(history, wish, 1)
    assert len(history) <= spares.MOST_REMEMBERED
    assert set(spares.expected(history)) >= set(list(dict.fromkeys(wishes))[-7:])


def test_a_start_gets_the_smallest_spare_that_is_large_enough() -> None:
    there = [spare("large", 8), spare("exact", 4), spare("small", 2), spare("elsewhere", 4, 1)]
    assert spares.choose(there, size_bytes=4, node=0, free_bytes=0) == there[1]
    assert spares.choose(there, size_bytes=5, node=0, free_bytes=10) == there[0]
    assert spares.choose(there, size_bytes=9, node=0, free_bytes=10) is None
    assert spares.choose(there, size_bytes=8, node=1, free_bytes=10) is None


def test_a_far_too_large_spare_is_cut_only_when_nothing_else_is_free() -> None:
    there = [spare("large", 8)]
    assert spares.choose(there, size_bytes=3, node=0, free_bytes=3) is None
    assert spares.choose(there, size_bytes=3, node=0, free_bytes=2) == there[0]


def test_what_is_kept_is_no_wish_come_true_and_ended_for_none() -> None:
    kept = dataclasses.replace(spare("kept", 4), is_kept=True)
    plan = spares.plan([spares.Wish(4, 0)], [kept], free_bytes=4, node_bytes=PLENTY)
    assert plan == spares.Plan(build=spares.Wish(4, 0))
    assert spares.plan([], [kept], free_bytes=4, node_bytes=PLENTY) == spares.Plan()


@hypothesis.given(some_kept(), strategies.integers(1, 100))
def test_what_is_kept_is_ended_only_where_all_other_spares_are_not_enough(
    there: list[spares.Spare], missing_bytes: int
) -> None:
    others_bytes = sum(s.size_bytes for s in there if not s.is_kept)
    chosen = [s.size_bytes for s in spares.make_room(there, missing_bytes) if s.is_kept]
    assert all(sum(chosen) - each + others_bytes < missing_bytes for each in chosen)


@hypothesis.given(some_kept(), strategies.integers(1, 100))
def test_room_is_made_by_spares_none_of_which_is_ended_in_vain(
    there: list[spares.Spare], missing_bytes: int
) -> None:
    chosen = spares.make_room(there, missing_bytes)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(there)
    total_bytes = sum(s.size_bytes for s in chosen)
    if sum(s.size_bytes for s in there) < missing_bytes:
        assert chosen == ()
    else:
        assert total_bytes >= missing_bytes
        assert all(total_bytes - s.size_bytes < missing_bytes for s in chosen)
