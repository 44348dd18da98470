"""On which NUMA node a pool adds or takes pages, and how many."""

import hypothesis
import pytest
from hypothesis import strategies as st

from som_device_plugin.sources.hugetlb import plan

PAGES = st.integers(min_value=0, max_value=2000)
NODES = st.dictionaries(st.integers(min_value=0, max_value=7), PAGES, min_size=1, max_size=4)


def test_the_guard_is_a_tenth_and_at_least_one_gib() -> None:
    assert plan.Guard().keep_bytes(total_bytes=64 * plan.GIB) == 64 * plan.GIB // 10
    assert plan.Guard().keep_bytes(total_bytes=4 * plan.GIB) == plan.GIB


def test_a_pool_grows_where_it_lacks_most_and_stops_at_nodes_that_gave_out() -> None:
    ours = {0: 10, 1: 0}
    assert plan.next_growth(target=64, ours=ours, exhausted=(), most=512) == plan.Step(1, 32)
    assert plan.next_growth(target=64, ours=ours, exhausted={1}, most=512) == plan.Step(0, 22)
    assert plan.next_growth(target=64, ours={0: 32, 1: 5}, exhausted={1}, most=512) is None


def test_what_does_not_divide_evenly_comes_from_any_node_that_has_it() -> None:
    ours = {0: 0, 1: 0}
    assert plan.next_growth(target=1, ours=ours, exhausted=(), most=1) == plan.Step(0, 1)
    assert plan.next_growth(target=1, ours=ours, exhausted={0}, most=1) == plan.Step(1, 1)
    assert plan.next_growth(target=3, ours={0: 0, 1: 2}, exhausted={0}, most=1) is None


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


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(37 * plan.GIB + plan.GIB // 2, "37.5Gi"), (2**21, "2Mi"), (64 * plan.GIB, "64Gi")],
)
def test_sizes_are_written_for_people(size_bytes: int, text: str) -> None:
    assert plan.human_bytes(size_bytes) == text
