"""Pools of physical ranges: what they take, what they give back, and what is left of a crash."""

import asyncio
import contextlib
import dataclasses
import itertools
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence

import pytest

from fakes.ranges import BLOCK, GIB, MIB, Killed, Machine
from som_api import VERSION, SomError, v1alpha1
from som_device_plugin import database, seams
from som_device_plugin.linux import dax, iomem, memory_blocks
from som_device_plugin.sources import turn
from som_device_plugin.sources.hugetlb import plan as pages
from som_device_plugin.sources.ranges import carved, devdax, external, records, source

RANGES = ("0x100000000-0x17fffffff", "0x200000000-0x21fffffff")
KINDS = ["External", "DevDax", "Carved"]
RUNNER = asyncio.Runner()
"""One loop, with its threads, for all lives: an agent makes one as it starts."""


def sources(kind: str) -> v1alpha1.Source:
    match kind:
        case "External":
            return v1alpha1.Source(external=v1alpha1.External(ranges=RANGES))
        case "DevDax":
            return v1alpha1.Source(dev_dax=v1alpha1.DevDax(devices=("dax0.*", "dax1.0")))
        case _:
            return v1alpha1.Source(carved=v1alpha1.Carved())


def device(name: str, *ranges: iomem.Range, driver: str = dax.DEVDAX) -> dax.Device:
    return dax.Device(
        name=name,
        driver=driver,
        size_bytes=sum(each.size_bytes for each in ranges),
        align_bytes=2 * MIB,
        node=0,
        ranges=ranges,
        number=0,
    )


def machine() -> Machine:
    """4 GiB of RAM on two NUMA nodes, 2.5 GiB reserved, and three devices of 1.5 GiB each."""
    return Machine(
        resources=[
            iomem.Resource(0, 4 * GIB, name="System RAM", depth=0),
            iomem.Resource(4 * GIB, 6 * GIB, name="Reserved", depth=0),
            iomem.Resource(8 * GIB, 17 * GIB // 2, name="Soft Reserved", depth=0),
            iomem.Resource(16 * GIB, 32 * GIB, name="Persistent Memory", depth=0),
        ],
        devices=[
            device("dax0.0", iomem.Range(16 * GIB + MIB, 35 * GIB // 2)),
            device("dax0.1", iomem.Range(18 * GIB, 39 * GIB // 2)),
            device("dax1.0", iomem.Range(20 * GIB, 41 * GIB // 2), iomem.Range(24 * GIB, 25 * GIB)),
        ],
        blocks=[
            memory_blocks.Block(
                start,
                BLOCK,
                online=True,
                zone="Movable" if start % (2 * GIB) >= GIB else "Normal",
                node=start // (2 * GIB),
            )
            for start in range(0, 4 * GIB, BLOCK)
        ],
    )


class Agent:
    """The real source of one kind, on a machine; another one is what a new agent is."""

    def __init__(
        self, on: Machine, kind: str, path: pathlib.Path, given: v1alpha1.Source | None = None
    ) -> None:
        self.given = given or sources(kind)
        self.db: sqlite3.Connection = database.open_database(path / "som.db")
        self.db.execute("PRAGMA synchronous = OFF")
        self.records = records.RangeRecords(self.db, boot_id="this")
        supplies: dict[str, source.Supply] = {
            "External": external.External(),
            "DevDax": devdax.DevDax(self.records),
            "Carved": carved.Carved(self.records, guard=pages.Guard()),
        }
        self.source = source.RangeSource(supplies[kind], hold_of=on.hold)

    def apply(
        self, capacity_bytes: int, *, held_bytes: int = 0, name: str = "a"
    ) -> seams.PoolReserved:
        wanted = v1alpha1.NodePool(
            name=name,
            generation=1,
            unit="2Mi",
            capacity=capacity_bytes,
            source=self.given,
            driver="Kernel",
        )
        return RUNNER.run(
            self.source.apply(wanted, held_bytes=held_bytes, on_progress=lambda _: None)
        )

    def reserved(self) -> seams.PoolReserved:
        return RUNNER.run(self.source.reserved("a"))

    def release(self) -> None:
        RUNNER.run(self.source.release("a"))

    def check(self) -> tuple[list[seams.Event], list[seams.PoolReserved]]:
        return RUNNER.run(self.source.check())


@pytest.fixture(scope="session", autouse=True)
def runner() -> Iterator[None]:
    with RUNNER:
        yield


@pytest.fixture
def on() -> Iterator[Machine]:
    made = machine()
    with made.installed():
        yield made


def sizes(spans: Sequence[seams.Span]) -> list[tuple[float, float]]:
    """(start, size) of each, in GiB."""
    return [(span.start / GIB, span.size_bytes / GIB) for span in spans]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_grows_shrinks_and_leaves_the_machine_as_before(
    kind: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    agent = Agent(on, kind, tmp_path)
    for capacity_bytes in (GIB, 2 * GIB, GIB):
        found = agent.apply(capacity_bytes)
        assert (found.capacity_bytes, found.shortfall) == (capacity_bytes, "")
        assert found.free_bytes == sum(found.node_bytes.values()) == capacity_bytes
        assert found.page_bytes == 2 * MIB
        assert agent.check() == ([], [found])
    agent.release()
    agent.release()
    assert on.state() == before
    assert agent.reserved() == seams.PoolReserved("a")


def test_memory_that_has_failed_is_no_capacity_and_is_named(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(GIB)
    on.bad_bytes = 4 * MIB
    found = agent.reserved()
    assert found.capacity_bytes == GIB - 4 * MIB
    assert found.shortfall == "1020Mi of 1Gi: 4Mi have failed; the kernel's log says where"
    assert agent.check() == ([], [found])


def test_what_a_device_knows_to_have_failed_is_told_before_it_is_taken_and_when_it_fails(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    (device, *_) = on.devices
    first = device.ranges[0].start - device.ranges[0].start % (2 * MIB) + 2 * MIB
    on.badblocks = (iomem.Range(first + 512, first + 1024), iomem.Range(20 * GIB, 21 * GIB))
    agent = Agent(on, "DevDax", tmp_path)
    found = agent.apply(GIB)
    assert on.bad == {first}
    assert found.capacity_bytes == GIB - 2 * MIB
    on.badblocks = (iomem.Range(first + 2 * MIB - 512, first + 2 * MIB + 512),)
    _, (found,) = agent.check()
    assert on.bad == {first, first + 2 * MIB}
    assert found.shortfall == "1020Mi of 1Gi: 4Mi have failed; the kernel's log says where"


def test_ranges_are_taken_in_their_order_and_cut_at_each_gib(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(GIB // 2)
    assert sizes(on.hold("a").spans()) == [(4, 0.5)]
    agent.apply(9 * GIB // 4)
    assert sizes(on.hold("a").spans()) == [(4, 0.5), (4.5, 0.5), (5, 1), (8, 0.25)]
    assert agent.apply(3 * GIB).shortfall == "2.5Gi of 3Gi: the order names no more than this"


def test_a_pool_shrinks_to_what_no_whole_span_divides(on: Machine, tmp_path: pathlib.Path) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(2 * GIB)
    assert agent.apply(3 * GIB // 2).capacity_bytes == 3 * GIB // 2
    assert sum(span.size_bytes for span in on.hold("a").spans()) == 3 * GIB // 2


def test_a_pool_never_shrinks_below_what_pods_hold_or_were_promised(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(2 * GIB)
    assert agent.apply(GIB // 2, held_bytes=GIB + 2 * MIB).capacity_bytes == 2 * GIB
    on.promised_bytes["a"] = GIB
    assert agent.apply(GIB // 2).capacity_bytes == GIB
    with pytest.raises(turn.SourceError, match="1Gi are held by containers; end them first"):
        agent.release()
    on.promised_bytes.clear()
    assert agent.apply(GIB // 2).capacity_bytes == GIB // 2


def use(on: Machine, *held_bytes: int) -> None:
    """Leases have so much of each span."""
    on.pools["a"] = [
        dataclasses.replace(span, held_bytes=each)
        for span, each in zip(on.hold("a").spans(), held_bytes, strict=True)
    ]
    on.promised_bytes["a"] = sum(held_bytes)


def test_a_pool_shrinks_under_leases_whose_memory_may_move(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(9 * GIB // 4)
    use(on, 400 * MIB, 300 * MIB, 200 * MIB)
    assert agent.apply(GIB).capacity_bytes == GIB
    assert [(span.size_bytes, span.held_bytes) for span in on.hold("a").spans()] == [
        (GIB, 900 * MIB)
    ]


def test_what_cannot_move_keeps_its_span_and_no_other(on: Machine, tmp_path: pathlib.Path) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(2 * GIB)
    use(on, 128 * MIB, 256 * MIB)
    on.stuck_bytes = {span.start: 2 * MIB for span in on.hold("a").spans()}
    assert agent.apply(GIB).capacity_bytes == 2 * GIB
    del on.stuck_bytes[on.hold("a").spans()[1].start]
    assert agent.apply(GIB).capacity_bytes == GIB
    assert [span.held_bytes for span in on.hold("a").spans()] == [384 * MIB]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("0x80000000-0xbfffffff", "0x80000000-0xbfffffff is System RAM; keep it from the kernel"),
        ("0x180000000-0x1bfffffff", "is nothing that the kernel knows"),
        ("0x100000000-0x100ffffff", "0x100000000-0x100ffffff has no memory behind it"),
    ],
)
def test_a_range_that_cannot_be_taken_is_named_with_the_reason(
    wanted: str, why: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    on.absent = [iomem.Range(4 * GIB, 5 * GIB)]
    given = v1alpha1.Source(external=v1alpha1.External(ranges=(wanted,)))
    agent = Agent(on, "External", tmp_path, given)
    found = agent.apply(16 * MIB)
    assert found.capacity_bytes == 0
    assert found.shortfall.startswith("0Mi of 16Mi: ")
    assert why in found.shortfall
    # A pool without memory would keep som.ko loaded.
    agent.release()
    assert on.state() == before


def test_what_is_in_use_inside_a_reserved_range_stays_so(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    on.resources.insert(2, iomem.Resource(4 * GIB, 4 * GIB + MIB, name="ACPI Tables", depth=1))
    found = Agent(on, "External", tmp_path).apply(3 * GIB)
    assert found.capacity_bytes == 5 * GIB // 2 - 2 * MIB
    assert "0x100000000-0x1000fffff belongs to ACPI Tables" in found.shortfall


def test_two_pools_never_get_the_same_memory(on: Machine, tmp_path: pathlib.Path) -> None:
    agent = Agent(on, "External", tmp_path)
    agent.apply(2 * GIB)
    found = agent.apply(GIB, name="b")
    assert found.capacity_bytes == GIB // 2
    assert found.shortfall == (
        "512Mi of 1Gi: 0x100000000-0x13fffffff belongs to another pool; 0x140000000-0x17fffffff "
        "belongs to another pool"
    )


def test_a_device_belongs_to_one_pool(on: Machine, tmp_path: pathlib.Path) -> None:
    before = on.state()
    agent = Agent(on, "DevDax", tmp_path)
    agent.apply(GIB)
    found = agent.apply(4 * GIB, name="b")
    assert found.shortfall == "3Gi of 4Gi: dax0.0 belongs to another pool"
    agent.release()
    RUNNER.run(agent.source.release("b"))
    assert on.state() == before


def test_devices_are_unbound_as_they_are_needed_and_bound_back(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    agent = Agent(on, "DevDax", tmp_path)
    agent.apply(GIB)
    assert [each.driver for each in on.devices] == ["", dax.DEVDAX, dax.DEVDAX]
    assert sizes(on.hold("a").spans()) == [(16 + 1 / 512, 1 - 1 / 512), (17, 1 / 512)]
    assert agent.apply(4 * GIB).capacity_bytes == 4 * GIB
    assert [each.driver for each in on.devices] == ["", "", ""]
    agent.apply(GIB)
    assert [each.driver for each in on.devices] == ["", dax.DEVDAX, dax.DEVDAX]


@pytest.mark.parametrize(
    ("driver", "users", "why"),
    [
        ("kmem", {}, "dax0.0 is System RAM (bound to kmem); `daxctl reconfigure-device"),
        ("fsdev_dax", {}, "dax0.0 belongs to the driver fsdev_dax; unbind it first"),
        (dax.DEVDAX, {"dax0.0": "pid 42 (qemu)"}, "dax0.0 is in use by pid 42 (qemu)"),
    ],
)
def test_a_device_that_others_use_is_left_alone(
    driver: str, users: dict[str, str], why: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    on.devices[0] = dataclasses.replace(on.devices[0], driver=driver)
    on.users = users
    before = on.devices[0]
    found = Agent(on, "DevDax", tmp_path).apply(4 * GIB)
    assert found.capacity_bytes == 3 * GIB
    assert why in found.shortfall
    assert on.devices[0] == before


def test_a_pattern_without_a_device_takes_nothing(on: Machine, tmp_path: pathlib.Path) -> None:
    before = on.state()
    on.devices = [each for each in on.devices if each.name == "dax1.0"]
    agent = Agent(on, "DevDax", tmp_path)
    assert agent.apply(2 * GIB).shortfall == (
        "1.5Gi of 2Gi: no devdax device is named dax0.*; this node has: dax1.0"
    )
    agent.release()
    on.devices.clear()
    assert agent.apply(GIB).shortfall.endswith("named dax1.0; this node has: none")
    assert on.state() != before, "the test took the devices away"


def test_carving_is_even_and_begins_with_what_can_move(on: Machine, tmp_path: pathlib.Path) -> None:
    agent = Agent(on, "Carved", tmp_path)
    assert agent.apply(2 * GIB).node_bytes == {0: GIB, 1: GIB}
    assert sizes(on.hold("a").spans()) == [(1, 1), (3, 1)]
    assert agent.apply(3 * GIB).capacity_bytes == 3 * GIB


def test_a_gib_that_does_not_divide_comes_from_the_node_that_has_it(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    on.unmovable = {0, GIB}
    agent = Agent(on, "Carved", tmp_path)
    assert agent.apply(GIB).node_bytes == {1: GIB}
    found = agent.apply(2 * GIB)
    assert found.shortfall == (
        "1Gi of 2Gi: no memory that can be moved away on NUMA node 0; order it soon after boot, or "
        "boot with movablecore="
    )


def test_memory_that_devices_need_is_carved_last(on: Machine, tmp_path: pathlib.Path) -> None:
    on.blocks = [
        dataclasses.replace(each, zone="DMA32" if each.start < GIB else "Normal", node=0)
        for each in on.blocks
    ]
    agent = Agent(on, "Carved", tmp_path)
    agent.apply(3 * GIB)
    assert sizes(on.hold("a").spans()) == [(1, 1), (2, 1), (3, 1)]
    agent.apply(4 * GIB)
    assert sizes(on.hold("a").spans())[0] == (0, 1)


def test_carving_stays_behind_the_guard(on: Machine, tmp_path: pathlib.Path) -> None:
    before = on.state()
    on.available_bytes = (1 << 50) // 10 + 3 * GIB // 2
    agent = Agent(on, "Carved", tmp_path)
    with pytest.raises(turn.SourceError, match="the largest capacity now is 1Gi"):
        agent.apply(2 * GIB)
    with pytest.raises(turn.SourceError, match="in whole pieces of 1Gi on this node; use 1Gi"):
        agent.apply(3 * GIB // 2)
    assert on.state() == before
    assert agent.apply(GIB).capacity_bytes == GIB


def test_carved_blocks_come_back_in_their_zone_whatever_the_kernel_makes_of_them(
    on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    on.comes_back = "Normal"
    agent = Agent(on, "Carved", tmp_path)
    agent.apply(4 * GIB)
    agent.release()
    assert on.state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_that_any_user_can_crash_is_refused_by_its_name(
    kind: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    on.kernel_is_safe = False
    with pytest.raises(turn.SourceError, match=r"first good versions are 6\.12\.118") as refused:
        Agent(on, kind, tmp_path).apply(GIB)
    assert refused.value.reason == "KernelUnsafe"
    assert on.state() == before


def test_the_first_good_kernels_are_those_of_the_module() -> None:
    header = pathlib.Path(__file__).parents[3] / "driver/known_good.h"
    assert f'"{source.FIRST_GOOD_KERNELS}"' in header.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_module_a_pool_has_nothing_and_can_be_released(
    kind: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    agent = Agent(on, kind, tmp_path)
    on.is_loaded = False
    assert agent.reserved() == seams.PoolReserved("a")
    with pytest.raises(seams.DriverNotLoaded):
        agent.apply(GIB)
    assert agent.check() == ([], [])
    agent.release()


@pytest.mark.parametrize("kind", KINDS)
def test_for_a_module_of_another_version_a_pool_goes_as_soon_as_nobody_holds_memory_of_it(
    kind: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    agent = Agent(on, kind, tmp_path)
    agent.apply(GIB)
    on.version = "0.0.9"
    on.promised_bytes["a"] = 2 * MIB
    with pytest.raises(seams.DriverNotLoaded, match=r"som\.ko 0\.0\.9 is loaded"):
        agent.apply(GIB, held_bytes=2 * MIB)
    assert agent.reserved().capacity_bytes == GIB
    on.promised_bytes.clear()
    with pytest.raises(seams.DriverNotLoaded):
        agent.apply(GIB)
    assert on.state() == before
    on.version = VERSION
    assert agent.apply(GIB).capacity_bytes == GIB


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_loaded_again_is_told_and_the_pool_is_made_again(
    kind: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    agent = Agent(on, kind, tmp_path)
    agent.apply(GIB)
    on.hold("a").destroy()
    (event,), (found,) = agent.check()
    assert (event.reason, event.warning) == ("PoolLost", True)
    assert found.capacity_bytes == 0
    assert on.state() == before, "what was unbound or carved is as before"
    assert agent.check()[0] == []
    assert agent.apply(GIB).capacity_bytes == GIB


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "then"), [(0, 2 * GIB), (2 * GIB, GIB), (2 * GIB, 0)])
def test_an_agent_killed_at_any_step_leaves_what_the_next_one_finishes(
    kind: str, first: int, then: int, tmp_path: pathlib.Path
) -> None:
    for die_at in itertools.count():
        path = tmp_path / str(die_at)
        path.mkdir()
        on = machine()
        on.comes_back = "Normal"
        before = on.state()
        with on.installed():
            if first:
                Agent(on, kind, path).apply(first)
            on.die_at = die_at
            killed = True
            with contextlib.suppress(Killed):
                change(Agent(on, kind, path), then)
                killed = False
            on.die_at = None
            after = Agent(on, kind, path)
            if then:
                assert after.apply(then).capacity_bytes == then
            after.release()
            assert on.state() == before
            after.db.close()
        if not killed:
            return


def change(agent: Agent, capacity_bytes: int) -> None:
    try:
        if capacity_bytes:
            agent.apply(capacity_bytes)
        else:
            agent.release()
    finally:
        agent.db.close()


def test_a_reboot_forgets_what_it_has_undone_itself(on: Machine, tmp_path: pathlib.Path) -> None:
    agent = Agent(on, "DevDax", tmp_path)
    agent.apply(GIB)
    assert agent.records.unbound("a") == {"dax0.0": dax.DEVDAX}
    assert records.RangeRecords(agent.db, boot_id="next").unbound("a") == {}


def test_a_device_that_cannot_be_bound_back_is_named_and_tried_again(
    on: Machine, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = on.state()
    agent = Agent(on, "DevDax", tmp_path)
    agent.apply(GIB)
    bind = dax.bind

    def busy(name: str, _driver: str) -> None:
        raise dax.DaxError(f"writing {name}: busy")

    monkeypatch.setattr(dax, "bind", busy)
    with pytest.raises(SomError, match=r"gives dax0\.0 back to device_dax: writing"):
        agent.release()
    monkeypatch.setattr(dax, "bind", bind)
    agent.release()
    assert on.state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_whose_store_was_lost_is_given_back(
    kind: str, on: Machine, tmp_path: pathlib.Path
) -> None:
    before = on.state()
    agent = Agent(on, kind, tmp_path)
    agent.apply(GIB)
    agent.db.close()
    (tmp_path / "som.db").unlink()
    on.comes_back = "Movable"
    after = Agent(on, kind, tmp_path)
    assert after.apply(GIB).capacity_bytes == GIB
    after.release()
    assert on.state() == before


def test_a_device_that_no_driver_had_is_left_to_none(on: Machine, tmp_path: pathlib.Path) -> None:
    on.devices[0] = dataclasses.replace(on.devices[0], driver="")
    before = on.state()
    agent = Agent(on, "DevDax", tmp_path)
    agent.apply(GIB)
    agent.release()
    assert on.state() == before
