"""Pools and leases of som.ko, on a fake of it; the real one is met in tests/vm."""

import collections
import errno
import pathlib

import pytest

from fakes import som_ko
from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi, driver, pool
from som_device_plugin.linux import modules

MIB = 2**20
GIB = 2**30
LEASE = seams.LeaseId("0123456789abcdef")
OURS, OTHERS = pathlib.Path("/var/lib/som"), pathlib.Path("/srv/som")


def start(number: int = 1, *, size_bytes: int = 64 * MIB, pool: str = "a") -> seams.Start:
    return seams.Start(LEASE, number, pool, 0, size_bytes, 2 * MIB, "Kernel", preferred_node=1)


@pytest.fixture
def module() -> som_ko.SomKo:
    return som_ko.SomKo(node_of=lambda address: address // (4 * GIB))


@pytest.fixture
def kernel(module: som_ko.SomKo) -> driver.Kernel:
    """With a pool of 128 MiB."""
    kernel = driver.Kernel(state_dir=OURS, module=module)
    kernel.ranges("a", "External").add(4 * GIB, 128 * MIB)
    return kernel


async def build(kernel: driver.Kernel, start: seams.Start) -> None:
    await kernel.build(start, on_progress=lambda _: None)


def lease_of(module: som_ko.SomKo) -> som_ko.Lease:
    (lease,) = module.leases_by_number.values()
    return lease


# Pools


def test_a_pool_is_made_with_its_first_range_and_found_by_its_name_again(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    driver.Kernel(state_dir=OURS, module=module).ranges("a", "External").add(5 * GIB, 2 * MIB)
    assert len(module.pools_by_number) == 1
    assert kernel.ranges("a", "External").spans() == [
        seams.Span(4 * GIB, 128 * MIB, node=1, held_bytes=0),
        seams.Span(5 * GIB, 2 * MIB, node=1, held_bytes=0),
    ]


def test_a_pool_keeps_its_mapping(module: som_ko.SomKo, kernel: driver.Kernel) -> None:
    kernel.ranges("b", "External").add(5 * GIB, 2 * MIB, mapping="Pinnable")
    assert [pool.mapping for pool in module.pools()] == [abi.MAPPING_BARE, abi.MAPPING_PINNABLE]
    with pytest.raises(seams.RangeRefused, match=r"pool b in som\.ko is not mapped as Bare"):
        kernel.ranges("b", "External").add(6 * GIB, 2 * MIB)


def test_what_is_in_quarantine_is_not_free(module: som_ko.SomKo, kernel: driver.Kernel) -> None:
    (pool,) = module.pools_by_number.values()
    pool.quarantined_bytes = 2 * MIB
    assert kernel.ranges("a", "External").holding().free_bytes == 126 * MIB


def test_memory_that_has_failed_is_no_memory(module: som_ko.SomKo, kernel: driver.Kernel) -> None:
    hold = kernel.ranges("a", "External")
    for _ in range(2):
        hold.failed(4 * GIB + 3 * MIB)
    assert hold.holding() == seams.Holding(126 * MIB, 0, 2 * MIB, whole_free_bytes=0)


def test_a_span_is_emptied_into_the_rest_of_its_pool(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    hold = kernel.ranges("a", "External")
    hold.add(5 * GIB, 128 * MIB)
    (kernels,) = module.pools_by_number.values()
    kernels.spans[0].held_bytes = 8 * MIB
    hold.empty(hold.spans()[0], most_bytes=6 * MIB)
    assert [span.held_bytes for span in hold.spans()] == [2 * MIB, 6 * MIB]
    kernels.spans[1].held_bytes = 128 * MIB
    with pytest.raises(seams.RangeRefused, match=r"emptying 0x100000000-.*Mi.* of pool a") as no:
        hold.empty(hold.spans()[0], most_bytes=6 * MIB)
    assert no.value.errno == errno.ENOSPC


def test_nothing_was_moved_of_what_cannot_move_or_is_not_there(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    kernel.ranges("b", "External").add(5 * GIB, 2 * MIB, mapping="Pinnable")
    assert [kernel.moves(name) for name in "abc"] == [seams.Moves(0, 0), None, None]
    assert kernel.compact("c", most_bytes=2 * MIB) == 0
    kernel.ranges("a", "External").destroy()
    kernel.ranges("b", "External").destroy()
    module.set(is_loaded=False)
    assert kernel.moves("a") is None


def test_pools_of_other_agents_and_of_long_names_are_others(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    one, other = "p" * 62 + "a", "p" * 62 + "b"
    names = {
        pool.kernel_name(OURS, "a"),
        pool.kernel_name(OTHERS, "a"),
        pool.kernel_name(OURS, one),
        pool.kernel_name(OURS, other),
    }
    assert len(names) == 4
    assert all(len(name) < abi.NAME_BYTES for name in names)
    assert driver.Kernel(state_dir=OTHERS, module=module).ranges("a", "External").spans() == []


async def test_free_is_what_no_lease_was_promised(kernel: driver.Kernel) -> None:
    await build(kernel, start())
    held = kernel.ranges("a", "External").holding()
    assert held == seams.Holding(free_bytes=64 * MIB, held_bytes=64 * MIB, whole_free_bytes=0)


def test_one_gib_pages_fit_into_whole_gib_that_no_lease_was_promised(
    kernel: driver.Kernel, module: som_ko.SomKo
) -> None:
    kernel.ranges("a", "External").add(5 * GIB, 2 * GIB)
    assert kernel.ranges("a", "External").holding().whole_free_bytes == 2 * GIB
    (pool,) = module.pools_by_number.values()
    pool.quarantined_bytes = GIB + 128 * MIB
    assert kernel.ranges("a", "External").holding().whole_free_bytes == GIB
    kernel.ranges("b", "External").add(8 * GIB, GIB, mapping="Pinnable")
    assert kernel.ranges("b", "External").holding().whole_free_bytes is None


def test_a_range_is_refused_in_the_kernels_words(kernel: driver.Kernel) -> None:
    with pytest.raises(seams.RangeRefused, match=r"adding 0x100000000-.*128Mi.* File exists") as no:
        kernel.ranges("a", "External").add(4 * GIB, 128 * MIB)
    assert no.value.errno == errno.EEXIST
    with pytest.raises(seams.RangeRefused, match="No data available"):
        kernel.ranges("a", "External").remove(6 * GIB)
    with pytest.raises(seams.RangeRefused, match="no such pool"):
        kernel.ranges("b", "External").remove(6 * GIB)


async def test_a_pool_with_leases_does_not_go_and_one_that_is_gone_has_gone(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    hold = kernel.ranges("a", "External")
    await build(kernel, start())
    with pytest.raises(seams.RangeRefused, match=r"giving back pool a: .*in use"):
        hold.destroy()
    kernel.revoke(start())
    for _ in range(2):
        hold.destroy()
    assert module.pools_by_number == {}
    assert hold.spans() == []


def test_without_the_module_a_pool_says_so_and_the_rest_is_nothing(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    hold = kernel.ranges("a", "External")
    hold.destroy()
    module.set(is_loaded=False)
    for ask in (hold.spans, hold.holding, hold.destroy):
        with pytest.raises(seams.DriverNotLoaded):
            ask()
    nothing = {start().built: seams.Usage(0, 0)}
    assert kernel.look([start()]) == seams.Seen({}, frozenset(), nothing)
    kernel.self_check()
    kernel.revoke(start())


# Leases


async def test_a_start_is_a_lease_of_its_size_and_node(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    await build(kernel, start())
    lease = lease_of(module)
    assert (lease.name, lease.quota_bytes, lease.numa_node) == (
        *(b"som:0123456789abcdef.1", 64 * MIB, 1),
    )
    has = seams.Usage(64 * MIB, 64 * MIB)
    assert kernel.usage(start()) == has
    there = {(LEASE, 1): 64 * MIB}
    assert kernel.look([start()]) == seams.Seen(there, frozenset(), {(LEASE, 1): has})


async def test_a_look_at_all_starts_asks_once_for_each_lease(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    starts = [start(number, size_bytes=2 * MIB) for number in range(1, 9)]
    for each in starts:
        await build(kernel, each)
    asked: list[str] = []
    module.set(refuse=lambda argument: asked.append(type(argument).__name__))
    kernel.look(starts)
    assert collections.Counter(asked) == {"LeaseInfo": 8, "PoolInfo": 1}


@pytest.mark.parametrize(
    ("is_asked", "loaded", "mapping", "expected"),
    [
        (True, "amdgpu", "Bare", True),
        (False, "amdgpu", "Bare", False),
        (True, "nvidia", "Bare", False),
        (True, "amdgpu", "Pinnable", False),
    ],
)
async def test_a_lease_moves_if_its_pod_and_its_node_show_that_no_device_can_have_it(
    module: som_ko.SomKo,
    kernel: driver.Kernel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    *,
    is_asked: bool,
    loaded: str,
    mapping: v1alpha1.Mapping,
    expected: bool,
) -> None:
    (tmp_path / loaded).mkdir()
    for name, text in (("initstate", "live"), ("version", "580.95"), ("srcversion", "A")):
        (tmp_path / loaded / name).write_text(f"{text}\n")
    monkeypatch.setattr(modules, "_MODULES", tmp_path)
    kernel.ranges("b", "External").add(5 * GIB, 64 * MIB, mapping=mapping)
    await kernel.build(start(pool="b"), on_progress=lambda _: None, is_movable=is_asked)
    assert lease_of(module).is_movable is expected


async def test_a_start_that_is_there_is_the_answer(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    await build(kernel, start())
    await build(driver.Kernel(state_dir=OURS, module=module), start())
    assert len(module.leases_by_number) == 1


async def test_a_pool_without_so_much_says_not_enough(kernel: driver.Kernel) -> None:
    await build(kernel, start())
    with pytest.raises(seams.NotEnoughMemory, match="66Mi from pool a"):
        await build(kernel, start(2, size_bytes=66 * MIB))
    with pytest.raises(seams.DriverError, match="no such pool"):
        await build(kernel, start(2, pool="b"))


async def test_a_container_gets_the_minor_of_its_own_lease(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    await build(kernel, start(1))
    await build(kernel, start(2))
    for number in (1, 2):
        (node,) = kernel.edits(start(number)).devices
        assert module.leases_by_number[node.minor].name.endswith(b".%d" % number)
        assert (node.major, node.container_path) == (module.MAJOR, "/dev/som")


async def test_a_holder_keeps_the_memory_until_he_lets_go(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    await build(kernel, start())
    lease_of(module).holders = 1
    kernel.revoke(start())
    for each in (kernel, driver.Kernel(state_dir=OURS, module=module)):
        held = seams.Usage(64 * MIB, 64 * MIB)
        resisting = frozenset({(LEASE, 1)})
        assert each.look([start()]) == seams.Seen({}, resisting, {(LEASE, 1): held})
    lease_of(module).holders = 0
    kernel.revoke(start())
    assert kernel.look([start()]).resisting == frozenset()
    assert kernel.usage(start()).free
    kernel.revoke(start())


async def test_leases_of_others_are_not_seen_and_not_touched(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    other = driver.Kernel(state_dir=OTHERS, module=module)
    other.ranges("a", "External").add(6 * GIB, 128 * MIB)
    await build(other, start())
    kernel.revoke(start())
    nothing = {start().built: seams.Usage(0, 0)}
    assert kernel.look([start()]) == seams.Seen({}, frozenset(), nothing)
    await build(kernel, start())
    assert len(module.leases_by_number) == 2


async def test_a_lease_that_somebody_destroyed_is_gone(
    module: som_ko.SomKo, kernel: driver.Kernel
) -> None:
    await build(kernel, start())
    module.reload()
    assert kernel.usage(start()).free
    assert kernel.statistics(start()) is None
    assert kernel.culprits(start()) == ()
    with pytest.raises(seams.DriverError, match=r"has no lease som:0123456789abcdef\.1 any more"):
        kernel.edits(start())


def test_a_slot_is_one_that_no_record_names(kernel: driver.Kernel) -> None:
    assert kernel.free_slot(pool="a", named=frozenset()) == 0
    assert kernel.free_slot(pool="a", named=frozenset({0, 2})) == 1
