"""Whose the huge pages are, and on which NUMA node to add or take some."""

import hypothesis
import pytest
from hypothesis import strategies as st

from som_device_plugin.sources import plan

PAGES = st.integers(min_value=0, max_value=2000)
NODES = st.dictionaries(st.integers(min_value=0, max_value=7), PAGES, min_size=1, max_size=4)


def share(pool: str, pages: int, intended: int | None = None) -> plan.Share:
    return plan.Share(pool, pages, pages if intended is None else intended)


def test_the_guard_is_a_tenth_and_at_least_one_gib() -> None:
    assert plan.Guard().keep_bytes(total_bytes=64 * plan.GIB) == 64 * plan.GIB // 10
    assert plan.Guard().keep_bytes(total_bytes=4 * plan.GIB) == plan.GIB


def test_a_pool_grows_where_it_lacks_most_and_stops_at_nodes_that_gave_out() -> None:
    ours = {0: 10, 1: 0}
    assert plan.next_growth(target=64, ours=ours, exhausted=(), most=512) == plan.Step(1, 32)
    assert plan.next_growth(target=64, ours=ours, exhausted={1}, most=512) == plan.Step(0, 22)
    assert plan.next_growth(target=64, ours={0: 32, 1: 5}, exhausted={1}, most=512) is None


@hypothesis.given(target=PAGES, ours=NODES, most=st.integers(min_value=1, max_value=512))
def test_growing_reaches_exactly_the_target(target: int, ours: dict[int, int], most: int) -> None:
    ours, before = dict(ours), dict(ours)
    while step := plan.next_growth(target=target, ours=ours, exhausted=(), most=most):
        assert 0 < step.pages <= most
        ours[step.node] += step.pages
    assert sum(ours.values()) == max(target, sum(before.values()))
    if not any(before.values()):
        assert ours == plan.even_shares(target, ours.keys())


@hypothesis.given(
    target=PAGES, ours=NODES, free=NODES, hold=PAGES, most=st.integers(min_value=1, max_value=512)
)
def test_shrinking_takes_free_pages_of_the_hold_and_nothing_else(
    target: int, ours: dict[int, int], free: dict[int, int], hold: int, most: int
) -> None:
    before = sum(ours.values())
    ours, free, left = dict(ours), dict(free), hold
    takeable = sum(min(ours[node], free.get(node, 0)) for node in ours)
    while step := plan.next_shrink(target=target, ours=ours, free=free, hold=left, most=most):
        assert 0 < step.pages <= most
        ours[step.node] -= step.pages
        free[step.node] -= step.pages
        left -= step.pages
        assert min(ours[step.node], free[step.node], left) >= 0
    assert before - sum(ours.values()) == max(min(before - target, hold, takeable), 0)


def test_pages_are_others_at_first_sight() -> None:
    assert plan.settle(found=7, foreign=None, shares=[]) == plan.Settled(7, ())


def test_pages_that_others_added_are_theirs() -> None:
    settled = plan.settle(found=150, foreign=10, shares=[share("a", 100)])
    assert settled == plan.Settled(50, (share("a", 100),))


def test_a_rewritten_total_is_the_writers_wish_and_ours_comes_on_top() -> None:
    settled = plan.settle(found=20, foreign=50, shares=[share("a", 100), share("b", 30)])
    assert (settled.foreign, settled.write, settled.cause) == (20, 150, plan.Cause.REWRITTEN)
    restored = plan.settle(found=150, foreign=20, shares=settled.shares)
    assert restored == plan.Settled(20, (share("a", 100), share("b", 30)))


def test_pages_that_others_take_away_again_were_theirs() -> None:
    settled = plan.settle(found=140, foreign=150, shares=[share("a", 100)], wish=50)
    assert settled == plan.Settled(40, (share("a", 100),))


def test_the_old_setting_applied_again_is_told_from_pages_taken_away() -> None:
    shares = [share("a", 100)]
    again = plan.settle(found=150, foreign=150, shares=shares, wish=150)
    assert (again.foreign, again.write) == (150, 250)
    in_use = plan.settle(found=140, foreign=150, shares=shares, wish=50, surplus=1)
    assert (in_use.foreign, in_use.write) == (140, 240)


def test_a_page_lost_to_a_memory_error_is_replaced_and_not_doubled() -> None:
    settled = plan.settle(found=99, foreign=0, shares=[share("a", 100)], corrupted=1)
    assert (settled.foreign, settled.write, settled.cause) == (0, 100, plan.Cause.MEMORY_ERROR)


def test_a_total_that_nobody_of_ours_misses_is_only_noted() -> None:
    assert plan.settle(found=3, foreign=9, shares=[]) == plan.Settled(3, ())


@hypothesis.given(foreign=PAGES, pages=PAGES, delta=st.integers(-600, 600), data=st.data())
def test_a_change_cut_short_anywhere_is_found_again(
    foreign: int, pages: int, delta: int, data: st.DataObject
) -> None:
    intended = max(pages + delta, 0)
    really = data.draw(st.integers(min(pages, intended), max(pages, intended)))

    settled = plan.settle(
        found=foreign + 11 + really,
        foreign=foreign,
        shares=[share("a", 11), share("b", pages, intended)],
    )

    assert settled == plan.Settled(foreign, (share("a", 11), share("b", really)))


@hypothesis.given(
    found=PAGES,
    foreign=PAGES,
    pools=st.lists(st.tuples(PAGES, PAGES), max_size=4),
    surplus=st.integers(0, 1),
    data=st.data(),
)
def test_whatever_is_found_every_page_belongs_to_one_and_it_settles(
    found: int, foreign: int, pools: list[tuple[int, int]], surplus: int, data: st.DataObject
) -> None:
    shares = [share(str(index), *pool) for index, pool in enumerate(pools)]
    settled = plan.settle(found=found, foreign=foreign, shares=shares, surplus=surplus)

    ours = sum(each.pages for each in settled.shares)
    assert settled.foreign + ours == found
    assert [each.pool for each in settled.shares] == [each.pool for each in shares]
    if settled.write is None:
        assert all(each.pages == each.intended for each in settled.shares)
    else:
        # The restoring write gives all, some or nothing, and may be cut short.
        assert settled.write > found
        found = data.draw(st.integers(found, settled.write))
    again = plan.settle(found=found, foreign=settled.foreign, shares=settled.shares)
    assert (again.write, again.foreign) == (None, settled.foreign)
    for each, pool in zip(again.shares, pools, strict=True):
        assert 0 <= each.pages <= max(pool)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(37 * plan.GIB + plan.GIB // 2, "37.5Gi"), (2**21, "2Mi"), (64 * plan.GIB, "64Gi")],
)
def test_sizes_are_written_for_people(size_bytes: int, text: str) -> None:
    assert plan.human_bytes(size_bytes) == text
