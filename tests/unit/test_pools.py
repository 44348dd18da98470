"""Pools follow their orders, except where kubelet would not start again."""

import asyncio
import dataclasses
import itertools
import pathlib
from collections.abc import Callable

import pytest

import waiting
from fakes.node import carved, order
from som_api import SomError, v1alpha1
from som_api.run import heartbeats
from som_device_plugin import database, loops, pools, seams
from som_device_plugin.kubelet import setup
from som_device_plugin.leases import decide, state
from unit.pool_nodes import GIB, FakeSource, Node, reported


@pytest.fixture
def node(tmp_path: pathlib.Path) -> Node:
    return Node(tmp_path)


STATIC = setup.Setup(blocked=setup.STATIC)


async def test_with_a_static_memory_manager_nothing_is_reserved_until_it_is_none(
    node: Node,
) -> None:
    node.setup = STATIC
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[:2] == ("False", "MemoryManagerStatic"))
        assert condition("Blocked")[:2] == ("True", "MemoryManagerStatic")
        assert "set memoryManagerPolicy: None" in condition("Blocked")[2]
        assert node.source.calls == []
        node.setup = setup.Setup()
        await node.until(lambda: condition("Ready")[:2] == ("True", "Reserved"))
        assert condition("Blocked") == ("False", "AsExpected", "")
        assert node.source.has == {"a": GIB}


async def test_a_static_memory_manager_forbids_only_what_kubelet_counts(node: Node) -> None:
    source = v1alpha1.Source(dev_dax=v1alpha1.DevDax(devices=("dax0.0",)))
    devices = order(GIB, name="b").model_copy(update={"source": source, "driver": "Kernel"})
    node.setup = STATIC
    node.order(carved(GIB, name="a"), devices)
    async with node.agent():
        await node.until(lambda: node.source.has == {"b": GIB})
        await node.until(lambda: "check" in node.source.calls)
        states = {pool.name: pool.conditions[0].reason for pool in reported(node.own).pools}
        assert states == {"a": "MemoryManagerStatic", "b": "Reserved"}
        node.order()
        await node.until(lambda: node.source.has == {})
    assert set(node.carved.calls) <= {"release"}


async def test_memory_that_a_static_memory_manager_knows_stays_as_it_is(node: Node) -> None:
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "Reserved")
    node.setup = STATIC
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "Reserved")
        await node.until(lambda: condition("Blocked")[0] == "True")
        node.source.calls.clear()
        node.order(order(2 * GIB))
        await node.until(lambda: condition("Ready")[1] == "MemoryManagerStatic")
        node.order(order(GIB))
        await node.until(lambda: condition("Ready")[1] == "Reserved")
        node.order()
        await node.until(lambda: condition("Ready")[1] == "MemoryManagerStatic")
        assert node.source.calls == []
        assert node.source.has == {"a": GIB}
        node.setup = setup.Setup()
        await node.until(lambda: node.source.has == {})


async def test_a_pool_without_memory_leaves_also_a_blocked_node(node: Node) -> None:
    node.setup = STATIC
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "MemoryManagerStatic")
        node.order()
        await node.until(lambda: node.source.calls == ["release"])


async def test_a_policy_that_cannot_be_read_refuses_the_pool(node: Node) -> None:
    node.setup = SomError("reading kubelet's memoryManagerPolicy: no")
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "Refused")
        assert condition("Ready")[2] == "reading kubelet's memoryManagerPolicy: no"
        assert node.source.calls == []


async def test_each_pool_is_reserved_and_kept_by_its_own_source(node: Node) -> None:
    node.other_sources["b"] = other = FakeSource()
    node.order(order(GIB), order(2 * GIB, name="b", unit="1Gi"))
    async with node.agent():
        await node.until(lambda: (node.source.has, other.has) == ({"a": GIB}, {"b": 2 * GIB}))
        await node.until(lambda: "check" in node.source.calls and "check" in other.calls)
        node.order(order(GIB))
        await node.until(lambda: (node.source.has, other.has) == ({"a": GIB}, {}))


async def test_pods_without_a_limit_are_named_and_refuse_nothing(node: Node) -> None:
    node.setup = setup.Setup(unlimited=("u1", "u2"))
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "Reserved")
        assert condition("PodsUnlimited")[:2] == ("True", "HugetlbLimitMissing")
        assert "UID u1, UID u2; mount the hugetlb controller" in condition("PodsUnlimited")[2]
        node.setup = setup.Setup()
        await node.until(lambda: condition("PodsUnlimited") == ("False", "AsExpected", ""))


def test_the_report_has_names_and_huge_pages(node: Node) -> None:
    had = seams.PoolReserved("a", GIB, GIB, {0: GIB // 2, 1: GIB // 2}, "")
    found = dataclasses.replace(setup.Setup(), unlimited=("1", "2", "3", "4"))
    report = reported(
        node.pools(),
        active={"a": pools.ActivePool(order(GIB), "Fake", had, pools.State.SETTLED)},
        found_setup=found,
        pod_names={"1": "shop/db"},
        huge_pages={2 << 20: 3 * GIB, GIB: GIB},
    )
    assert report.huge_pages == (v1alpha1.HugePages(page_size="2Mi", total=3 * GIB, pools=GIB),)
    message = next(c.message for c in report.conditions if c.type == "PodsUnlimited")
    assert "shop/db, UID 2, UID 3 and 1 more;" in message


def test_the_report_sums_up_its_pools_for_a_list_of_nodes(node: Node) -> None:
    """What kubectl can show in a column, within the bounds of the CRD also on a large machine."""
    numa = {number: GIB for number in range(8)}
    reason = "x" * 2000
    active = {
        name: pools.ActivePool(
            order(16 * GIB, name=name),
            "Fake",
            seams.PoolReserved(name, 8 * GIB, 8 * GIB, numa, reason),
            pools.State.SETTLED,
        )
        for name in ("b" * 63, "a" * 63)
    }
    report = reported(node.pools(), active=active)
    assert report.pool_names == f"{'a' * 63},{'b' * 63}"
    assert (report.capacity, report.allocated) == (16 * GIB, 0)
    assert len(report.model_dump_json(by_alias=True)) < 10_000


def test_a_lease_in_trouble_is_reported_with_its_owner(node: Node) -> None:
    owner = seams.Owner("shop", "db", "main", seams.PodUid("u"))
    lease = state.Lease(seams.LeaseId("a"), seams.Ticket("n0-1"), 1, owner=owner)
    findings = [
        decide.Finding(decide.Outcome.HELD, seams.LeaseId("a"), 1),
        decide.Finding(decide.Outcome.STRAY, seams.LeaseId("b"), 1),
    ]
    report = reported(node.pools(), leases=(lease,), findings=findings)
    [degraded] = [found for found in report.conditions if found.type == "Degraded"]
    assert (degraded.status, degraded.reason) == ("True", "LeaseHeld")
    assert degraded.message.startswith("lease a of shop/db/main: released, and somebody still")
    assert "; lease b: a mount or a lease of som" in degraded.message


async def order_away_while_held(
    node: Node, condition: Callable[[str], tuple[str, str, str]]
) -> None:
    """The pool is reserved and ordered away, and containers hold it."""
    node.source.held = True
    await waiting.until(lambda: condition("Ready")[1] == "Reserved")
    node.order()
    await waiting.until(lambda: condition("Ready") == ("False", "Releasing", "held by containers"))


async def test_a_pool_ordered_away_leaves_also_when_the_agent_restarts_without_an_api_server(
    node: Node,
) -> None:
    node.order(order(GIB))
    async with node.agent() as condition:
        await order_away_while_held(node, condition)
    node.source.calls.clear()
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready") == ("False", "Releasing", "held by containers"))
        node.source.held = False
        await node.until(lambda: node.source.has == {})
    assert "apply" not in node.source.calls


def test_orders_of_a_newer_agent_are_refused_in_words(node: Node) -> None:
    spec = v1alpha1.SomNodeSpec(pools=(order(GIB),)).model_dump_json()
    node.connection.execute(
        "INSERT INTO orders VALUES (1, 1, ?, ?)", (spec, spec.replace("unit", "weight"))
    )
    with pytest.raises(database.DatabaseError, match=r"pools\.0\.unit.*newer"):
        node.pools()


async def test_a_pool_that_leaves_is_tried_again_when_something_of_it_was_freed_and_not_before(
    node: Node,
) -> None:
    node.order(order(GIB))
    async with node.agent() as condition:
        await order_away_while_held(node, condition)
        await node.own.refill()
        await node.clock.settle()
        assert node.source.calls.count("release") == 1
        node.source.held = False
        node.source.has["a"] = GIB // 2
        await node.own.refill()
        await waiting.until(lambda: node.source.has == {})


async def test_a_pool_that_shrinks_goes_on_when_a_pod_has_left(node: Node) -> None:
    node.order(order(2 * GIB))
    async with node.agent() as condition:
        await waiting.until(lambda: condition("Ready")[1] == "Reserved")
        node.source.least_bytes = 2 * GIB
        node.order(order(GIB))
        await waiting.until(lambda: condition("Ready")[1] == "Shrinking")
        node.source.least_bytes = 0
        node.source.free_bytes["a"] = GIB
        await node.own.refill()
        await waiting.until(lambda: condition("Ready")[1] == "Reserved")


async def test_a_pool_that_is_ordered_again_as_its_memory_goes_back_is_reserved_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.order(order(GIB))
    release = node.source.release

    async def ordered_again_meanwhile(pool: str) -> None:
        await release(pool)
        node.order(order(2 * GIB))
        while node.own.generation != 3:  # noqa: ASYNC110
            await asyncio.sleep(0)

    monkeypatch.setattr(node.source, "release", ordered_again_meanwhile)
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "Reserved")
        node.order()
        await node.until(lambda: node.source.has == {"a": 2 * GIB})


REFUSED = (
    "the pool has memory of source HugeTLB with driver HugeTLBFS, which cannot become that of "
    "source Carved with driver Kernel: delete the pool and make it again when its memory is back, "
    "or make another one"
)


async def test_a_pool_with_memory_cannot_move_to_another_source(node: Node) -> None:
    node.order(order(GIB))
    async with node.agent() as condition:
        await waiting.until(lambda: condition("Ready")[1] == "Reserved")
        node.order(carved(GIB))
        await waiting.until(lambda: condition("Ready") == ("False", "Refused", REFUSED))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready") == ("False", "Refused", REFUSED))
        assert (node.source.has, node.carved.calls) == ({"a": GIB}, [])
        assert [pool.driver for pool in reported(node.own).pools] == ["HugeTLBFS"]
        node.order()
        await node.until(lambda: node.source.has == {})
        node.order(carved(GIB))
        await node.until(lambda: node.carved.has == {"a": GIB})


async def test_a_pool_with_memory_that_is_ordered_as_before_again_is_no_longer_refused(
    node: Node,
) -> None:
    node.order(order(GIB))
    async with node.agent() as condition:
        await waiting.until(lambda: condition("Ready")[1] == "Reserved")
        node.order(carved(GIB))
        await waiting.until(lambda: condition("Ready")[1] == "Refused")
        node.order(order(GIB))
        await waiting.until(lambda: condition("Ready")[1] == "Reserved")
    assert node.carved.calls == []


async def test_a_pool_without_memory_moves_to_another_source(node: Node) -> None:
    node.source.most_bytes = 0
    node.order(order(GIB))
    async with node.agent() as condition:
        await waiting.until(lambda: condition("Ready")[1] == "PartlyReserved")
        node.order(carved(GIB))
        await waiting.until(lambda: condition("Ready")[1] == "Reserved")
        assert node.carved.has == {"a": GIB}
        assert node.source.calls[-1] == "release", "nothing of it stays on record"


async def test_a_source_that_cannot_be_looked_at_keeps_no_other_from_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise SomError("no")

    monkeypatch.setattr(node.source, "check", fails)
    node.order(order(GIB, name="a"), carved(GIB, name="b"))
    async with node.agent():
        await node.until(lambda: node.carved.calls.count("check") == 2)


async def test_pools_end_when_told_although_something_was_freed_in_that_moment(
    node: Node,
) -> None:
    node.order(order(2 * GIB))
    node.source.most_bytes = GIB
    async with asyncio.timeout(waiting.DEADLINE_S):
        async with node.agent() as condition:
            await waiting.until(lambda: condition("Ready")[1] == "PartlyReserved")
            node.own.touch()


async def test_one_pool_whose_source_fails_in_an_unknown_way_keeps_no_other_from_its_memory(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = node.source.apply

    async def poisoned(pool: v1alpha1.NodePool, **named: object) -> seams.PoolReserved:
        if pool.name == "a":
            raise RecursionError
        return await apply(pool, **named)

    monkeypatch.setattr(node.source, "apply", poisoned)
    node.order(order(GIB), order(GIB, name="b", unit="1Gi"))
    async with node.agent() as condition:
        await node.until(lambda: node.source.has == {"b": GIB})
        await node.until(lambda: condition("Ready")[1] == "Refused")
        assert condition("Ready")[2].startswith("unexpected: RecursionError()")
        monkeypatch.setattr(node.source, "apply", apply)
        await node.until(lambda: node.source.has == {"a": GIB, "b": GIB})


async def test_a_driver_that_is_missing_is_looked_for_every_ten_seconds(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    async def unloaded(_pool: v1alpha1.NodePool, **_: object) -> seams.PoolReserved:
        tries.append(node.clock.monotonic())
        raise seams.DriverNotLoaded("som.ko is not loaded")

    monkeypatch.setattr(node.source, "apply", unloaded)
    node.order(order(GIB))
    async with node.agent():
        await node.until(lambda: len(tries) == 20)
    # Time passes here also while a thread works, which on a busy machine may be long. Pauses that
    # grow are minutes by now, all of them.
    pauses_s = [after - before for before, after in itertools.pairwise(tries[10:])]
    assert min(pauses_s) <= 15.0


async def test_an_error_that_names_its_reason_is_the_conditions_reason(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unloaded(_pool: v1alpha1.NodePool, **_: object) -> seams.PoolReserved:
        raise seams.DriverNotLoaded("som.ko is not loaded")

    monkeypatch.setattr(node.source, "apply", unloaded)
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(
            lambda: condition("Ready") == ("False", "DriverNotLoaded", "som.ko is not loaded")
        )


async def test_a_kernel_that_looks_for_memory_for_long_is_no_reason_to_start_the_agent_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(loops, "BEATS", heartbeats.Heartbeats(monotonic=lambda: now_s))
    looking = asyncio.Event()

    async def apply(pool: v1alpha1.NodePool, **_: object) -> seams.PoolReserved:
        looking.set()
        await asyncio.Event().wait()
        raise AssertionError(pool)

    monkeypatch.setattr(node.source, "apply", apply)
    node.order(order(GIB))
    async with node.agent():
        await looking.wait()
        now_s = 2 * heartbeats.WITHIN_S
        assert "pools has not come round" not in loops.BEATS.late()


async def test_a_pool_whose_hold_cannot_be_filled_keeps_no_other_from_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.order(order(GIB), order(GIB, name="b", unit="1Gi"))
    async with node.agent():
        await node.until(lambda: node.source.has == {"a": GIB, "b": GIB})
        filled = []

        async def refill(pool: str) -> seams.PoolReserved:
            if pool == "a":
                raise SomError("locking the hold: not within 10 s")
            filled.append(pool)
            return node.source.now(pool)

        monkeypatch.setattr(node.source, "refill", refill)
        await node.own.refill()
        assert filled == ["b"]


async def test_while_kubelet_is_not_found_nothing_is_reserved_and_nothing_advertised(
    node: Node,
) -> None:
    node.order(order(GIB))
    async with node.agent() as condition:
        await node.until(lambda: condition("Ready")[1] == "Reserved")
        assert node.own.ready
    node.setup = setup.Setup(blocked=setup.Blocked("KubeletNotFound", "give it --kubelet-root-dir"))
    async with node.agent() as condition:
        await node.until(lambda: condition("Blocked")[:2] == ("True", "KubeletNotFound"))
        assert not node.own.ready
        node.order(order(2 * GIB))
        await node.until(
            lambda: condition("Ready")[1:] == ("KubeletNotFound", "give it --kubelet-root-dir")
        )
        assert node.source.has == {"a": GIB}
        node.setup = setup.Setup()
        await node.until(lambda: node.source.has == {"a": 2 * GIB})
        assert node.own.ready


async def test_pages_that_are_lost_are_sought_again_however_long_the_first_ones_took(
    node: Node,
) -> None:
    node.order(order(2 * GIB))
    node.source.most_bytes = GIB
    async with node.agent() as condition:
        await node.until(lambda: node.source.calls.count("apply") > 3)
        node.source.most_bytes = 2 * GIB
        await node.until(lambda: condition("Ready")[1] == "Reserved")
        node.source.has["a"] = GIB
        await node.until(lambda: node.source.has["a"] == 2 * GIB)


async def test_orders_that_cannot_be_stored_are_carried_out_when_they_are(node: Node) -> None:
    node.connection.execute("PRAGMA query_only = 1")
    node.order(order(GIB))
    async with node.agent() as condition:
        await asyncio.sleep(0)
        assert node.source.has == {}
        node.connection.execute("PRAGMA query_only = 0")
        await node.until(lambda: node.source.has == {"a": GIB})
        await node.until(lambda: condition("Ready")[1] == "Reserved")


def test_a_blocked_pool_that_becomes_whole_is_looked_at_again_and_not_blocked_for_ever() -> None:
    has = seams.PoolReserved("a", GIB, GIB, {0: GIB}, "")
    assert pools.ActivePool(order(GIB), "Fake", has, pools.State.SETTLED).is_full
    assert not pools.ActivePool(order(GIB), "Fake", has, pools.State.BLOCKED).is_full


def test_a_pool_keeps_the_pages_it_has_and_is_not_full_while_its_order_is_refused() -> None:
    had = seams.PoolReserved("a", GIB, GIB, {0: GIB}, "", page_bytes=GIB)
    pool = pools.ActivePool(order(GIB), "Fake", had, pools.State.REFUSED, why="page size")
    assert pool.page_bytes == GIB
    assert not pool.is_full


def test_huge_pages_are_those_of_pools_that_have_them_and_the_driver_is_the_orders(
    node: Node,
) -> None:
    carved = v1alpha1.NodePool(
        name="c",
        generation=1,
        unit="1Gi",
        capacity=GIB,
        source=v1alpha1.Source(carved=v1alpha1.Carved()),
        driver="Kernel",
    )
    has = seams.PoolReserved("c", GIB, GIB, {0: GIB}, page_bytes=v1alpha1.CHUNK_BYTES)
    active = {"c": pools.ActivePool(carved, "Kernel", has, pools.State.SETTLED)}
    report = reported(node.pools(), active=active, huge_pages={2 << 20: 4 << 20})
    assert report.huge_pages == ()
    assert report.pools[0].driver == "Kernel"
