"""The lease core on the Kernel driver, over a fake of som.ko."""

import dataclasses
import pathlib
from collections.abc import Mapping

import pytest

from fakes import node, som_ko
from som_api import v1alpha1
from som_device_plugin import pools, seams
from som_device_plugin.drivers.kernel import driver
from som_device_plugin.leases import decide, state
from unit.leases.worlds import CAPACITY, Killed, Mortal, World

POOL = "pool"
START = 4 << 30


class KernelPools(node.FakePools):
    """One pool in som.ko, of all that is there."""

    def __init__(self, kernel: driver.Kernel) -> None:
        super().__init__({})
        self._hold = kernel.ranges(POOL, "External")

    def for_unit(self, unit: v1alpha1.Unit) -> pools.ActivePool:
        has = self._hold.holding()
        capacity_bytes = has.free_bytes + has.held_bytes
        ordered = node.order(capacity_bytes, name=POOL, unit=unit)
        reserved = seams.PoolReserved(POOL, capacity_bytes, has.free_bytes, page_bytes=node.PAGE)
        return pools.ActivePool(ordered, "Kernel", reserved, pools.State.SETTLED)


class KernelWorld(World):
    """A node with som.ko and a pool in it, both of which outlive the agent."""

    def __init__(self, path: pathlib.Path) -> None:
        self.module = som_ko.SomKo()
        self.add_pool(path)
        super().__init__(path)

    def add_pool(self, path: pathlib.Path) -> None:
        kernel = driver.Kernel(state_dir=path.parent, module=self.module)
        kernel.ranges(POOL, "External").add(START, CAPACITY)

    def make_drivers(self) -> Mapping[str, seams.Driver]:
        kernel = driver.Kernel(state_dir=self.path.parent, module=self.module)
        self.driver = Mortal(kernel, self)
        self.pools = KernelPools(kernel)
        return {"Kernel": self.mortal(kernel)}

    def reload(self) -> None:
        """Somebody destroys all, and loads the module again; the pool comes back."""
        self.module.reload()
        self.add_pool(self.path)

    @property
    def leases(self) -> list[som_ko.Lease]:
        return list(self.module.leases_by_number.values())

    def lease_of(self, pod: node.FakePod) -> som_ko.Lease:
        """The one that can be opened."""
        (found,) = [
            lease
            for lease in self.leases
            if not lease.is_revoked
            and (mine := self.store.lease(seams.LeaseId(lease.name.decode()[4:20])))
            and mine.owner
            and mine.owner.uid == pod.pod.uid
        ]
        return found

    async def start(self, pod: node.FakePod) -> som_ko.Lease:
        await self.service.pre_start([pod.ticket])
        pod.container_runs = True
        return self.lease_of(pod)

    def delete(self, pod: node.FakePod) -> None:
        self.cluster.running.remove(pod)

    def check_specs(self) -> None:
        """Each spec is one of a lease that can be opened."""
        specs = [path.name[13:29].encode() for path in self.cdi_dir.glob("*.json")]
        there = [lease.name[4:20] for lease in self.leases if not lease.is_revoked]
        assert set(specs) <= set(there)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> KernelWorld:
    return KernelWorld(tmp_path / "som.db")


async def test_a_pods_lease_in_som_ko_lives_as_long_as_the_pod(world: KernelWorld) -> None:
    pod = await world.admit("a", 8)
    lease = await world.start(pod)
    assert lease.quota_bytes == 8 * node.PAGE
    await world.reconciler.reconcile()
    assert world.leases == [lease]
    world.delete(pod)
    await world.reconciler.reconcile()
    assert world.leases == []
    assert world.store.leases() == []


async def test_memory_may_move_if_its_pod_can_give_it_to_no_device_also_after_the_agents_restart(
    world: KernelWorld,
) -> None:
    plain, with_device = await world.admit("a", 1), await world.admit("b", 1)
    (request,) = plain.pod.containers
    movable = dataclasses.replace(request, is_movable=True)
    plain.pod = dataclasses.replace(plain.pod, containers=(movable,))
    for _ in range(2):
        assert (await world.start(plain)).is_movable
        assert not (await world.start(with_device)).is_movable
        await world.crash()


async def test_what_somebody_has_open_is_reported_and_goes_when_he_lets_go(
    world: KernelWorld,
) -> None:
    pod = await world.admit("a", 32)
    lease = await world.start(pod)
    lease.holders = 1
    world.delete(pod)
    await world.reconciler.reconcile()
    await world.reconciler.reconcile()
    assert [finding.outcome for finding in world.reconciler.findings][-1] is state.Event.RESISTS
    assert lease.is_revoked
    successor = await world.admit("b", 1)
    with pytest.raises(seams.StartRefused, match=r"has 0 free of 64Mi.*released, still held"):
        await world.start(successor)
    lease.holders = 0
    await world.reconciler.reconcile()
    await world.start(successor)


async def test_a_restarted_container_gets_another_lease_and_a_warm_one_the_same(
    world: KernelWorld,
) -> None:
    cold, warm = await world.admit("a", 1), await world.admit("b", 1, keep=True)
    before = [await world.start(cold), await world.start(warm)]
    after = [await world.start(cold), await world.start(warm)]
    assert after[0] is not before[0]
    assert after[1] is before[1]
    assert len(world.leases) == 2


async def test_a_container_that_ran_again_without_the_agent_has_no_old_content_to_tell_of(
    world: KernelWorld,
) -> None:
    pod = await world.admit("a", 1)
    await world.start(pod)
    ended_s = world.clock.now().timestamp() + 1
    pod.pod = dataclasses.replace(pod.pod, restarts={"main": ended_s})
    await world.reconciler.reconcile()
    found = [finding.outcome for finding in world.reconciler.findings]
    assert decide.Outcome.OLD_CONTENT not in found
    assert world.events == []


async def test_a_lease_that_is_gone_within_a_boot_ends_as_with_a_boot(world: KernelWorld) -> None:
    pod = await world.admit("a", 8)
    await world.start(pod)
    world.reload()
    await world.reconciler.reconcile()
    assert state.Event.LOST in [finding.outcome for finding in world.reconciler.findings]
    assert [event.reason for event in world.events] == ["LeaseLost"]
    (lease,) = world.store.leases()
    assert lease.owner and lease.starts == ()
    world.check_specs()
    assert (await world.start(pod)).quota_bytes == 8 * node.PAGE


async def test_an_agent_killed_at_any_call_leaves_one_lease_to_each_owner_and_none_to_nobody(
    world: KernelWorld,
) -> None:
    calls, killed = 0, True
    while killed:
        pod = await world.admit(f"pod-{calls}", 8)
        world.calls_left = calls
        try:
            await world.start(pod)
            world.delete(pod)
            await world.reconciler.reconcile()
        except Killed:
            pass
        killed = world.killed
        await world.crash()
        world.check_specs()
        if pod in world.cluster.running:
            await world.start(pod)
            assert len(world.leases) == 1
            world.delete(pod)
        await world.reconciler.reconcile()
        assert world.leases == []
        assert world.store.leases() == []
        assert list(world.cdi_dir.iterdir()) == []
        calls += 1
    assert calls > 20
