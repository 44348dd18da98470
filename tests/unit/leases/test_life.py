"""The lease core through random lives of pods, with crashes of the agent, on a fake node."""

import asyncio
import contextlib
import dataclasses
import errno
import random
import time

import hypothesis
import pytest
from hypothesis import strategies

from fakes import node
from som_device_plugin import SomError, seams
from som_device_plugin.leases import database, decide, manager, reconciler, starts, state, store
from unit.kube.watching import until

CAPACITY = 32 * node.PAGE
TICKETS = [seams.Ticket(f"n0-{number}") for number in range(4)]


class Killed(Exception):
    """SIGKILL has hit the agent: nothing of it does anything any more."""


class Mortal:
    """A part of an agent, which may die before and after each of its calls."""

    def __init__(self, part, world):
        self._part, self._world = part, world

    def __getattr__(self, name):
        method = getattr(self._part, name)
        if not callable(method):
            return method

        def call(*arguments, **named):
            self._world.may_die()
            result = method(*arguments, **named)
            if asyncio.iscoroutine(result):
                return self._awaited(result)
            self._world.may_die()
            return result

        return call

    async def _awaited(self, result):
        value = await result
        self._world.may_die()
        return value


class World:
    """A fake node and an agent on it that can be killed and started again."""

    def __init__(self, path):
        self.kernel = node.FakeKernel(CAPACITY)
        self.cluster = node.FakeCluster()
        self.events = []
        self.path = path
        self.uid = 0
        self.boot_id = "boot-1"
        self.start_agent()

    def may_die(self):
        """SIGKILL after so many more calls of store and driver as `calls_left` says."""
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed

    def disk(self, *, full):
        """Whether the store can be written."""
        self.connection.execute(f"PRAGMA query_only = {int(full)}")

    @property
    def killed(self):
        return self.calls_left is not None and self.calls_left < 0

    def start_agent(self):
        self.calls_left = None
        self.connection = database.open_database(self.path)
        self.store = Mortal(store.LeaseStore(self.connection), self)
        self.driver = Mortal(node.FakeDriver(self.kernel), self)
        pools = node.FakePools(self.kernel)

        async def on_event(event):
            self.events.append(event)

        shared = {
            "leases": self.store,
            "driver": self.driver,
            "on_event": on_event,
        }
        self.starts = starts.Starts(**shared, boot_id=self.boot_id, on_change=lambda: None)
        seen = {
            "own_starts": self.starts,
            "own_pools": pools,
            "pods": self.cluster,
            "resources": self.cluster,
        }
        self.reconciler = reconciler.Reconciler(
            **shared,
            **seen,
            own_pod=node.OWN_POD,
            boot_id=self.boot_id,
            on_change=lambda: None,
        )
        self.manager = manager.LeaseManager(
            **shared, **seen, own_reconciler=self.reconciler, tickets=TICKETS
        )

    async def crash(self):
        """SIGKILL: builds stop where they are, nothing is tidied up but by the kernel."""
        for key in self.starts.building:
            task = self.starts._builds[key].task
            task.cancel()
            await asyncio.wait([task])
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.wait([task])
        self.start_agent()
        await self.reconciler.recover()

    async def admit(self, name, count, *, keep=False, tickets=()):
        """What kubelet does for a pod: choose a ticket, Allocate. Its fault: one that is taken."""
        used = {p.ticket for p in self.cluster.running}
        free = [t for t in TICKETS if t not in used]
        chosen = tickets or self.manager.preferred(available=free, must_include=[], size=1)
        if not chosen:
            return None
        self.uid += 1
        pod = seams.Pod(
            namespace="default",
            name=name,
            uid=seams.PodUid(f"uid-{self.uid}"),
            terminal=False,
            containers=(seams.ContainerRequest(name="main", unit="2Mi", count=count),),
            keep_on_restart=keep,
        )
        await self.manager.allocate(chosen)
        fake = node.FakePod(pod, chosen[0])
        self.cluster.running.append(fake)
        return fake

    async def start_container(self, pod):
        """PreStartContainer, then the container runs and writes to its memory."""
        try:
            await self.manager.pre_start([pod.ticket])
        except SomError:
            return False
        (block,) = [
            b
            for b in self.kernel.superblocks
            if b.mounted and self.owner_of(b) == pod.pod.uid and not b.truncated
        ]
        if not pod.pod.keep_on_restart or block is not pod.delivered:
            assert block.writer is None, "memory of an earlier owner or start was handed out"
        block.writer = pod.pod.uid
        assert block.start.size_bytes == pod.pod.containers[0].size_bytes
        pod.delivered, pod.container_runs = block, True
        return True

    def unused_names(self):
        """The API server knows each name once."""
        used = {p.pod.name for p in self.cluster.running if p.known_to_api}
        return sorted({f"pod-{number}" for number in range(len(TICKETS) + 1)} - used)

    def owner_of(self, block):
        lease = self.store.lease(block.start.lease_id)
        return lease.owner.uid if lease and lease.owner else None

    def check(self):
        assert self.kernel.used_bytes() <= CAPACITY
        for pod in self.cluster.running:
            if pod.container_runs:
                assert pod.delivered.mounted and not pod.delivered.truncated, (
                    "memory was taken from a running container"
                )
        slots = [
            (b.start.pool, b.start.slot)
            for b in self.kernel.superblocks
            if self.kernel.held_bytes(b)
        ]
        assert len(slots) == len(set(slots)), "two starts share a cgroup"


STEPS = [
    "admit",
    "start",
    "start",
    "start while reconciling",
    "start cancelled",
    "restart",
    "restart while reconciling",
    "delete",
    "delete by force",
    "container ends",
    "pin",
    "let go",
    "crash",
    "killed soon",
    "killed soon",
    "disk full",
    "disk has room",
    "kubelet silent",
    "kubelet answers",
    "source lost",
    "source synced",
    "recreate",
    "ticket given twice",
    "reconcile",
]


async def one_step(world, step, choose):
    pods = world.cluster.running
    pod = choose.choice(pods) if pods else None
    match step:
        case "admit" if len(pods) < len(TICKETS):
            await world.admit(choose.choice(world.unused_names()), choose.randint(1, 16))
        case "start" if pod and pod.known_to_api and not pod.container_runs:
            await world.start_container(pod)
        case "start cancelled" if pod and pod.known_to_api and not pod.container_runs:
            starting = asyncio.create_task(world.manager.pre_start([pod.ticket]))
            for _ in range(choose.randint(0, 12)):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
        case "start while reconciling" | "restart while reconciling" if (
            pod and pod.known_to_api and pod.container_runs == step.startswith("restart")
        ):
            pod.container_runs = False
            reconciling = asyncio.create_task(world.reconciler.reconcile())
            for _ in range(choose.randint(0, 3)):
                await asyncio.sleep(0)
            await world.start_container(pod)
            await reconciling
        case "restart" if pod and pod.known_to_api and pod.container_runs:
            pod.container_runs = False
            await world.start_container(pod)
        case "delete" if pod:
            pods.remove(pod)
        case "delete by force" if pod:
            pod.known_to_api = False
        case "container ends" if pod and not pod.known_to_api:
            pods.remove(pod)
        case "pin" if pod and pod.delivered:
            pod.delivered.pinned_bytes = node.PAGE
        case "let go":
            for block in world.kernel.superblocks:
                block.pinned_bytes = 0
        case "crash":
            await world.crash()
        case "killed soon":
            world.calls_left = choose.randint(0, 20)
        case "disk full" | "disk has room":
            world.disk(full=step == "disk full")
        case "kubelet silent" | "kubelet answers":
            world.cluster.kubelet_answers = step == "kubelet answers"
        case "source lost" | "source synced":
            world.cluster.synced = step == "source synced"
        case "recreate" if pod and pod.container_runs:
            pods.remove(pod)
            await world.admit(pod.pod.name, choose.randint(1, 16))
        case "ticket given twice" if pod and len(pods) < len(TICKETS):
            await world.admit(choose.choice(world.unused_names()), 4, tickets=[pod.ticket])
        case _:
            await world.reconciler.reconcile()


async def live(world, chosen, choose):
    for step in chosen:
        with contextlib.suppress(Killed, database.DatabaseError):
            await one_step(world, step, choose)
        if world.killed:
            await world.crash()
        world.check()
    world.calls_left = None
    world.disk(full=False)
    world.cluster.running.clear()
    world.cluster.synced = world.cluster.kubelet_answers = True
    for block in world.kernel.superblocks:
        block.pinned_bytes = 0
    for _ in range(3):
        await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0, "a page leaked"
    leases = world.store.leases()
    assert not [lease for lease in leases if lease.starts]
    assert world.kernel.paths <= {lease.lease_id for lease in leases}, "a path was left behind"


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    steps=strategies.lists(strategies.sampled_from(STEPS), min_size=5, max_size=60),
    seed=strategies.integers(0, 2**32),
)
def test_no_life_leaks_a_page_or_hands_out_memory_twice(tmp_path_factory, steps, seed):
    path = tmp_path_factory.mktemp("life") / "som.db"
    asyncio.run(live(World(path), steps, random.Random(seed)))


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "som.db")


async def test_a_restarted_container_gets_new_memory(world):
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    first = pod.delivered
    await world.start_container(pod)
    assert pod.delivered is not first


@pytest.mark.parametrize(("keep", "reports"), [(False, ["ContentKept"]), (True, [])])
async def test_a_restart_while_no_agent_served_is_reported_once(world, keep, reports):
    pod = await world.admit("db", 4, keep=keep)
    await world.start_container(pod)
    before, after = time.time() - 2, time.time() + 2
    for restarts in ({}, {"main": before}, {"main": after}, {"main": after}):
        pod.pod = dataclasses.replace(pod.pod, restarts=restarts)
        await world.reconciler.reconcile()
    assert [event.reason for event in world.events] == reports
    world.events.clear()
    await world.crash()
    await world.reconciler.reconcile()
    assert [event.reason for event in world.events] == reports


async def test_a_warm_restart_gets_its_content_back(world):
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    first = pod.delivered
    await world.start_container(pod)
    assert pod.delivered is first


async def test_a_repeated_pre_start_while_warming_continues_the_same_start(world):
    pod = await world.admit("db", 4)
    gate, building = asyncio.Event(), asyncio.Event()
    build = world.driver.build

    async def slow(start, *, on_progress):
        building.set()
        await gate.wait()
        return await build(start, on_progress=on_progress)

    world.driver.build = slow
    first = asyncio.create_task(world.manager.pre_start([pod.ticket]))
    await building.wait()
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(world.manager.pre_start([pod.ticket]))
    gate.set()
    await second
    assert len(world.kernel.superblocks) == 1


async def test_a_pod_deleted_while_it_warms_frees_its_memory(world):
    pod = await world.admit("db", 4)
    building = asyncio.Event()

    async def stuck(start, *, on_progress):
        building.set()
        await asyncio.Event().wait()

    world.driver.build = stuck
    waiting = asyncio.create_task(world.manager.pre_start([pod.ticket]))
    await building.wait()
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    with pytest.raises(seams.StartRefused, match="its pod is gone"):
        await waiting
    await world.reconciler.reconcile()
    assert world.store.leases() == []


async def test_short_memory_says_what_is_free_and_who_holds_the_rest(world):
    holder = await world.admit("big", 30)
    await world.start_container(holder)
    pod = await world.admit("db", 4)
    with pytest.raises(seams.StartRefused) as refused:
        await world.manager.pre_start([pod.ticket])
    assert "needs 8Mi" in str(refused.value)
    assert "has 4Mi free of 64Mi; held by: default/big/main 60Mi" in str(refused.value)


async def test_a_pod_that_goes_while_it_waits_for_memory_gets_no_start(world):
    pod = await world.admit("db", 40)
    reconcile = world.reconciler.reconcile

    async def pod_goes():
        world.cluster.running.clear()
        await reconcile()

    world.reconciler.reconcile = pod_goes
    with pytest.raises(seams.StartRefused, match="has ended or was replaced meanwhile"):
        await world.manager.pre_start([pod.ticket])
    assert world.store.leases() == []


async def test_memory_of_a_pod_that_just_went_is_found_by_the_next_start(world):
    await world.start_container(await world.admit("old", 32))
    world.cluster.running.clear()
    pod = await world.admit("new", 32)
    assert await world.start_container(pod)


async def test_after_a_reboot_the_lease_keeps_its_owner_and_is_built_anew(world):
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    world.kernel.superblocks.clear()
    world.boot_id = "boot-2"
    world.start_agent()
    await world.reconciler.recover()
    assert await world.start_container(pod)
    (lease,) = world.store.leases()
    assert [record.state for record in lease.starts] == [state.State.DELIVERED]


async def test_a_ticket_without_a_lease_says_that_the_store_was_lost(world):
    with pytest.raises(seams.StartRefused, match="store was lost"):
        await world.manager.pre_start([TICKETS[0]])


@pytest.mark.parametrize("is_bound", [False, True])
async def test_a_replaced_lease_keeps_its_path_while_its_ticket_is_listed(world, is_bound):
    pod = await world.admit("db", 40)
    if is_bound:
        assert not await world.start_container(pod)
    await world.manager.allocate([pod.ticket])
    await world.reconciler.reconcile()
    assert len(world.kernel.paths) == 2
    world.cluster.running.clear()
    await world.reconciler.reconcile()
    assert len(world.kernel.paths) == 1


async def test_one_ticket_in_two_live_pods_is_reported_and_the_first_keeps_running(world):
    first = await world.admit("first", 4)
    await world.start_container(first)
    await world.manager.allocate([first.ticket])
    second = dataclasses.replace(
        first,
        pod=dataclasses.replace(first.pod, name="second", uid=seams.PodUid("uid-9")),
        container_runs=False,
    )
    world.cluster.running.append(second)
    with pytest.raises(seams.StartRefused, match="two live pods"):
        await world.manager.pre_start([second.ticket])
    assert [event.reason for event in world.events] == ["TicketFault"]
    world.check()
    first.container_runs = False
    assert not await world.start_container(first)
    world.cluster.running.remove(second)
    await world.reconciler.reconcile()
    assert await world.start_container(first)


async def test_a_third_pod_with_the_ticket_does_not_get_the_seconds_lease(world):
    first = await world.admit("first", 4)
    await world.start_container(first)
    await world.manager.allocate([first.ticket])
    second, third = (
        node.FakePod(
            dataclasses.replace(first.pod, name=name, uid=seams.PodUid(name)), first.ticket
        )
        for name in ("second", "third")
    )
    world.cluster.running.append(second)
    assert not await world.start_container(second)
    await world.manager.allocate([first.ticket])
    world.cluster.running = [second, third]
    await world.reconciler.reconcile()
    for pod in (second, third):
        assert not await world.start_container(pod)
    world.cluster.running = [third]
    await world.reconciler.reconcile()
    assert await world.start_container(third)


def test_free_tickets_are_healthy_only_while_a_pool_can_serve(world):
    asyncio.run(world.admit("db", 4))
    world.manager._pools.ready = False
    healthy = [device.ticket for device in world.manager.devices() if device.healthy]
    assert healthy == [world.cluster.running[0].ticket]


@pytest.mark.parametrize("calls", range(4))
async def test_an_agent_killed_while_it_names_a_lease_leaves_no_path_behind(world, calls):
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.manager.allocate([TICKETS[0]])
    await world.crash()
    assert world.kernel.paths <= {lease.lease_id for lease in world.store.leases()}


@pytest.mark.parametrize("calls", range(24))
async def test_an_agent_killed_while_a_lease_ends_takes_all_of_it_when_it_is_back(world, calls):
    await world.start_container(await world.admit("db", 4))
    world.cluster.running.clear()
    world.calls_left = calls
    with contextlib.suppress(Killed):
        await world.reconciler.reconcile()
    await world.crash()
    await world.reconciler.reconcile()
    assert world.kernel.used_bytes() == 0
    assert world.store.leases() == []


async def test_a_start_whose_outcome_could_not_be_stored_is_finished_when_the_disk_has_room(world):
    pod = await world.admit("db", 4)
    build = world.driver.build

    async def built_as_the_disk_fills_up(start, *, on_progress):
        world.disk(full=True)
        return await build(start, on_progress=on_progress)

    world.driver.build = built_as_the_disk_fills_up
    with pytest.raises(SomError, match=r"writing the agent's store.*free space"):
        await world.manager.pre_start([pod.ticket])
    with pytest.raises(SomError, match="writing the agent's store"):
        await world.manager.allocate([TICKETS[3]])
    await world.reconciler.reconcile()
    world.disk(full=False)
    await world.reconciler.reconcile()
    assert await world.start_container(pod)
    assert len(world.kernel.superblocks) == 1


async def test_a_start_that_fails_in_an_unknown_way_is_tried_again(world):
    pod = await world.admit("db", 4)
    build = world.driver.build

    async def refused(start, *, on_progress):
        raise OSError(errno.EAGAIN, "fork: no more processes")

    world.driver.build = refused
    with pytest.raises(seams.StartRefused, match="no more processes; retrying"):
        await world.manager.pre_start([pod.ticket])
    world.driver.build = build
    assert await world.start_container(pod)


async def test_a_lease_that_cannot_be_taken_away_keeps_no_other_from_it(world):
    for name in ("first", "second"):
        await world.start_container(await world.admit(name, 4))
    world.cluster.running.clear()
    first = world.store.leases()[0].lease_id
    revoke = world.driver.revoke

    def refused(start):
        if start.lease_id == first:
            raise seams.DriverError("covered")
        revoke(start)

    world.driver.revoke = refused
    for _ in range(2):
        await world.reconciler.reconcile()
    assert [lease.lease_id for lease in world.store.leases()] == [first]
    world.driver.revoke = revoke
    for _ in range(2):
        await world.reconciler.reconcile()
    assert world.store.leases() == []


async def test_a_start_that_waits_for_the_agent_is_answered_within_kubelets_patience(
    world, monkeypatch
):
    monkeypatch.setattr(manager, "PRE_START_LIMIT_S", 0.0)
    monkeypatch.setattr(manager, "_GRACE_S", 0.0)
    pod = await world.admit("db", 40)
    world.reconciler.reconcile = asyncio.Event().wait
    with pytest.raises(seams.StartRefused, match="busy with its pools"):
        await world.manager.pre_start([pod.ticket])


async def test_a_pass_that_fails_is_tried_again(world, monkeypatch):
    monkeypatch.setattr(reconciler, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(reconciler, "RECONCILE_EVERY_S", 0.0)
    await world.start_container(await world.admit("db", 4))
    world.cluster.running.clear()
    attached = world.driver.attached
    refusals = iter([seams.DriverError("the cgroup hierarchy is gone")] * 3)

    def refused():
        for refusal in refusals:
            raise refusal
        return attached()

    world.driver.attached = refused
    running = asyncio.create_task(world.reconciler.run())
    await until(lambda: not world.store.leases())
    running.cancel()


async def test_those_who_wait_for_a_reconciliation_share_one(world):
    passes = 0
    attached = world.driver.attached

    def counted():
        nonlocal passes
        passes += 1
        return attached()

    world.driver.attached = counted
    await asyncio.gather(*(world.reconciler.reconcile() for _ in range(20)))
    assert passes == 2


async def test_a_start_that_is_built_during_a_pass_is_no_stray(world):
    pod = await world.admit("db", 4)
    attached = world.driver.attached
    loop = asyncio.get_running_loop()

    def late():
        asyncio.run_coroutine_threadsafe(world.start_container(pod), loop).result(10)
        return attached()

    world.driver.attached = late
    await world.reconciler.reconcile()
    outcomes = {finding.outcome for finding in world.reconciler.findings}
    assert decide.Outcome.STRAY not in outcomes


async def test_a_restart_during_a_pass_is_no_lost_mount(world):
    pod = await world.admit("db", 4)
    await world.start_container(pod)
    usage = world.driver.usage
    loop = asyncio.get_running_loop()
    world.driver.attached = lambda: {}

    def late(start):
        world.driver.usage = usage
        asyncio.run_coroutine_threadsafe(world.start_container(pod), loop).result(10)
        return usage(start)

    world.driver.usage = late
    await world.reconciler.reconcile()
    outcomes = {finding.outcome for finding in world.reconciler.findings}
    assert outcomes == {decide.Outcome.IN_USE}


async def test_a_warm_restart_does_not_give_back_what_its_container_has_cut_off(world):
    pod = await world.admit("db", 4, keep=True)
    await world.start_container(pod)
    first = pod.delivered
    world.driver.attached = lambda: {(first.start.lease_id, first.start.number): 0}
    await world.start_container(pod)
    assert pod.delivered is not first
