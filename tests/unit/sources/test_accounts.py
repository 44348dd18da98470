"""Whose the huge pages are, whatever the kernel shows."""

import hypothesis
from hypothesis import strategies as st

from som_device_plugin.sources.hugetlb import accounts

PAGES = st.integers(min_value=0, max_value=2000)
NODES = st.fixed_dictionaries({0: PAGES, 1: PAGES, 2: PAGES})
SHARES = st.builds(accounts.Share, pages=NODES, intended=NODES)
LEDGERS = st.builds(
    accounts.Ledger,
    strangers=st.none() | NODES,
    pools=st.dictionaries(st.sampled_from(["a", "b", "c"]), SHARES, max_size=3),
    setting=PAGES,
)
FOUND = st.builds(
    lambda nodes, **rest: accounts.Found(total=sum(nodes.values()), nodes=nodes, **rest),
    nodes=NODES,
    surplus=st.sampled_from([0, 0, 5]),
    neighbours=st.just(0) | PAGES,
    lost=st.sampled_from([0, 0, 3]),
)


def total(nodes: accounts.Nodes | None) -> int:
    return sum((nodes or {}).values())


@hypothesis.given(found=FOUND, ledger=LEDGERS)
def test_every_page_found_has_one_owner_at_most_and_nobody_gains_by_a_judgement(
    found: accounts.Found, ledger: accounts.Ledger
) -> None:
    settled = accounts.settle(found, ledger)
    after = settled.ledger
    ours = sum(total(share.pages) for share in after.pools.values())
    for node, pages in found.nodes.items():
        shares = [share.pages[node] for share in after.pools.values()]
        assert (after.strangers or {}).get(node, 0) + sum(shares) <= pages
    for pool, share in ledger.pools.items():
        assert total(after.pools[pool].pages) <= total(after.pools[pool].intended) <= share.most
    before = found.total if ledger.strangers is None else total(ledger.strangers)
    if settled.cause is accounts.Cause.ADDED:
        assert total(after.strangers) <= found.total - found.neighbours - ours
    else:
        assert total(after.strangers) <= before
    wanted = sum(share.most for share in ledger.pools.values())
    assert found.total + total(settled.missing) <= max(
        found.total, before + found.neighbours + wanted
    )


@hypothesis.given(found=FOUND, ledger=LEDGERS, data=st.data())
def test_it_settles_whatever_came_of_the_pages_that_were_missing(
    found: accounts.Found, ledger: accounts.Ledger, data: st.DataObject
) -> None:
    settled = accounts.settle(found, ledger)
    nodes = {
        node: pages + data.draw(st.integers(0, settled.missing.get(node, 0)))
        for node, pages in found.nodes.items()
    }
    came = sum(nodes.values()) - found.total
    hypothesis.assume(found.total + came >= found.neighbours)
    again = accounts.settle(
        accounts.Found(total=found.total + came, nodes=nodes, neighbours=found.neighbours),
        settled.ledger,
    )
    assert not again.missing
    assert total(again.ledger.strangers) <= total(settled.ledger.strangers)


@hypothesis.given(ledger=LEDGERS, data=st.data())
def test_pages_that_moved_change_no_sum(ledger: accounts.Ledger, data: st.DataObject) -> None:
    hypothesis.assume(ledger.strangers is not None)
    settled_pools = {
        pool: accounts.Share(share.pages, share.pages) for pool, share in ledger.pools.items()
    }
    before = accounts.Ledger(ledger.strangers, settled_pools, ledger.setting)
    pages = total(ledger.strangers) + sum(share.least for share in settled_pools.values())
    first = data.draw(st.integers(0, pages))
    second = data.draw(st.integers(0, pages - first))
    nodes = {0: first, 1: second, 2: pages - first - second}

    settled = accounts.settle(accounts.Found(total=pages, nodes=nodes), before)

    assert (settled.cause, settled.missing, settled.doubted) == (accounts.Cause.NONE, {}, 0)
    assert total(settled.ledger.strangers) == total(ledger.strangers)
    for pool, share in settled.ledger.pools.items():
        assert share.pages == share.intended
        assert total(share.pages) == settled_pools[pool].least


@hypothesis.given(pages=PAGES, delta=st.integers(-600, 600), others=PAGES, data=st.data())
def test_a_change_cut_short_anywhere_is_found_again(
    pages: int, delta: int, others: int, data: st.DataObject
) -> None:
    intended = max(pages + delta, 0)
    really = data.draw(st.integers(min(pages, intended), max(pages, intended)))
    cut_short = accounts.Share({0: pages, 1: 5}, {0: intended, 1: 5})
    whole = accounts.Share({0: 11, 1: 0}, {0: 11, 1: 0})

    settled = accounts.settle(
        accounts.Found(total=others + 11 + 5 + really, nodes={0: others + 11 + really, 1: 5}),
        accounts.Ledger({0: others, 1: 0}, {"a": whole, "b": cut_short}),
    )

    assert settled.ledger.pools["b"].pages == {0: really, 1: 5}
    assert settled.ledger.pools["a"] == whole
    assert settled.ledger.strangers == {0: others, 1: 0}
    assert settled.doubted == really - min(pages, intended)


def test_a_total_that_no_pool_misses_is_only_noted() -> None:
    ledger = accounts.Ledger({0: 9}, {"a": accounts.Share({0: 0}, {0: 0})}, setting=3)
    settled = accounts.settle(accounts.Found(total=3, nodes={0: 3}, surplus=1), ledger)
    assert (settled.cause, settled.missing) == (accounts.Cause.TAKEN, {})
    assert settled.ledger.strangers == {0: 3}


def test_who_loses_pages_loses_them_on_the_node_that_lost_them() -> None:
    share = accounts.Share({0: 50, 1: 50}, {0: 50, 1: 50})
    ledger = accounts.Ledger({0: 20, 1: 20}, {"a": share}, setting=40)
    settled = accounts.settle(accounts.Found(total=130, nodes={0: 60, 1: 70}), ledger)
    assert settled.ledger.strangers == {0: 10, 1: 20}
    assert settled.ledger.pools == {"a": share}


def test_nodes_that_were_read_while_pages_moved_are_made_to_agree_with_the_machine() -> None:
    share = accounts.Share({0: 50, 1: 50}, {0: 50, 1: 50})
    ledger = accounts.Ledger({0: 0, 1: 0}, {"a": share})
    for seen in ({0: 49, 1: 50}, {0: 50, 1: 51}, {0: 0, 1: 0}):
        settled = accounts.settle(accounts.Found(total=100, nodes=seen), ledger)
        assert (settled.cause, settled.missing) == (accounts.Cause.NONE, {})
        assert total(settled.ledger.pools["a"].pages) == 100
