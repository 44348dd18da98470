"""The node agent, put together: orders in, pools, leases, kubelet, reports out.

One agent per node at a time, by a file lock. An agent that waits for it is alive and ready, opens
no store and registers nothing, so that the pod of an update may start before the old one ends.
"""

import asyncio
import collections
import contextlib
import dataclasses
import fcntl
import functools
import logging
import os
import pathlib
import stat
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent import futures
from typing import Final

from prometheus_client import core, registry

from som_api import SomError, endpoint, v1alpha1
from som_device_plugin import backends, changes, database, loops, metrics, pools, seams, status
from som_device_plugin.kubelet import plugin, podresources, registration, setup, turns
from som_device_plugin.leases import reconciler, service, starts, state, store
from som_device_plugin.linux import cgroups, hugepages, mountinfo
from som_device_plugin.sources.hugetlb import plan

log = logging.getLogger(__name__)

TICKETS_PER_NODE: Final = 256
"""Containers with som memory per NUMA node; kubelet hands out one ticket to each."""

STORE: Final = "som.db"
BOOT_ID: Final = pathlib.Path("/proc/sys/kernel/random/boot_id")
MOST_HELD_PODS: Final = 20
THREADS: Final = 32
LOCK_RETRY_S: Final = 0.2
REPORT_COALESCE_S: Final = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the agent works. `own_pod` is `namespace/name`, as PodResources lists it."""

    state_dir: pathlib.Path
    kubelet: setup.Directories
    endpoint: str
    own_pod: str
    guard: plan.Guard
    boot_id_file: pathlib.Path = BOOT_ID


@dataclasses.dataclass(frozen=True)
class Outside:
    """The agent's neighbours: who gives orders, who knows the pods, who hears reports."""

    specs: seams.SpecSource
    pods: seams.PodSource
    reporter: seams.Reporter


class Agent:
    """Runs everything; `run` returns only by cancellation or error."""

    def __init__(self, settings: Settings, outside: Outside) -> None:
        self._settings = settings
        self._outside = outside
        self._why_not_ready = ""

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            SomError: this node cannot serve leases; says why and what to do.
            endpoint.EndpointError: its endpoint cannot be had.
        """
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                endpoint.serve(
                    address=self._settings.endpoint,
                    not_ready=lambda: self._why_not_ready,
                    unhealthy=loops.BEATS.late,
                )
            )
            await stack.enter_async_context(_only_agent(self._settings.state_dir))
            # By default there are few, of which some wait for a worker or a lock.
            threads = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="som")
            asyncio.get_running_loop().set_default_executor(threads)
            await self._serve()

    async def _serve(self) -> None:
        settings, outside, changed = self._settings, self._outside, changes.Changes()
        self._why_not_ready = "starting"
        boot_id = settings.boot_id_file.read_text(encoding="ascii").strip()
        store_path = settings.state_dir / STORE
        connection = database.open_database(store_path)
        own_backends = backends.Backends(
            backends.Site(
                state_dir=settings.state_dir,
                store=store_path,
                boot_id=boot_id,
                guard=settings.guard,
                hierarchy=cgroups.find(mountinfo.read()),
            )
        )
        [driver] = own_backends.drivers.values()
        driver.self_check()
        # Before the pools are looked at, because what the last agent left running may lock them.
        await asyncio.to_thread(driver.end_builders)
        own_pools = pools.Pools(
            backend_of=own_backends.of,
            connection=connection,
            promised_bytes=self._promised_bytes,
            read_setup=lambda: setup.read(
                settings.kubelet, hierarchy=cgroups.find(mountinfo.read())
            ),
            reporter=outside.reporter,
            changed=changed,
        )
        taking_turns = turns.Turns()
        client = podresources.Client(
            settings.kubelet.pod_resources_socket, taking_turns=taking_turns
        )
        leases = store.LeaseStore(connection, changed)
        own_starts = starts.Starts(
            leases=leases,
            driver=driver,
            boot_id=boot_id,
            reporter=outside.reporter,
        )
        own_reconciler = reconciler.Reconciler(
            leases=leases,
            own_starts=own_starts,
            driver=driver,
            own_pools=own_pools,
            pods=outside.pods,
            resources=client,
            own_pod=settings.own_pod,
            boot_id=boot_id,
            reporter=outside.reporter,
            changed=changed,
        )
        tickets = service.TicketService(
            leases=leases,
            own_starts=own_starts,
            own_reconciler=own_reconciler,
            driver=driver,
            own_pools=own_pools,
            pods=outside.pods,
            resources=client,
            tickets=_tickets(hugepages.nodes()),
            reporter=outside.reporter,
            changed=changed,
        )
        collector = metrics.Collected(
            lambda: _collect(own_pools, leases.leases(), own_reconciler.held.values())
        )
        registry.REGISTRY.register(collector)
        try:
            await loops.until_done("first look", own_pools.look)
            await loops.until_done("first look", own_reconciler.reconcile)
            self._why_not_ready = ""
            async with asyncio.TaskGroup() as group:
                group.create_task(own_pools.run(outside.specs))
                group.create_task(own_reconciler.run())
                report = functools.partial(
                    self._report, own_pools, own_reconciler, leases, boot_id, changed.listen()
                )
                group.create_task(loops.repeat("report", report))
                serve = functools.partial(self._keep_registered, own_pools, tickets, taking_turns)
                group.create_task(loops.repeat("kubelet", serve))
        finally:
            registry.REGISTRY.unregister(collector)
            await own_starts.close()
            await driver.close()
            await client.close()

    def _promised_bytes(self, unit: v1alpha1.Unit) -> int:
        """What pods bound to this node have requested, started or not; all, before it is known."""
        if not self._outside.pods.synced:
            return sys.maxsize
        return sum(
            request.size_bytes
            for pod in self._outside.pods.pods()
            if not pod.terminal
            for request in pod.containers
            if request.unit == unit
        )

    async def _keep_registered(
        self, own_pools: pools.Pools, leases: service.TicketService, taking_turns: turns.Turns
    ) -> None:
        """Advertise nothing before there is something to serve: memory, or leases of before."""
        loops.rest()
        while not own_pools.ready and not leases.leases():
            await leases.changed()
            leases.devices()
        device_plugin = plugin.DevicePlugin(leases, taking_turns=taking_turns)
        async with asyncio.TaskGroup() as group:
            group.create_task(device_plugin.run())
            group.create_task(
                registration.keep_registered(
                    device_plugin,
                    directory=self._settings.kubelet.plugins,
                    resource_name=v1alpha1.TICKET_RESOURCE,
                )
            )

    async def _report(
        self,
        own_pools: pools.Pools,
        own_reconciler: reconciler.Reconciler,
        leases: store.LeaseStore,
        boot_id: str,
        changed: asyncio.Event,
    ) -> None:
        changed.clear()
        await self._outside.reporter.report(
            status.node_status(
                generation=own_pools.generation,
                boot_id=boot_id,
                active=own_pools.pools(),
                leases=leases.leases(),
                findings=own_reconciler.findings,
                found_setup=own_pools.setup,
                pod_names={
                    pod.uid: f"{pod.namespace}/{pod.name}" for pod in self._outside.pods.pods()
                },
                huge_pages=hugepages.total_bytes(),
            )
        )
        await asyncio.sleep(REPORT_COALESCE_S)
        await loops.wait(changed, at_most_s=None)


@contextlib.asynccontextmanager
async def _only_agent(state_dir: pathlib.Path) -> AsyncIterator[None]:
    """Hold the node's lock inside the block; waits for the agent that has it."""
    path = state_dir / "agent.lock"
    try:
        was_open = _keep_to_root(state_dir)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SomError(
            f"opening {path}: {error}; run as root, with the state directory on a local disk"
        ) from error
    try:
        waited = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("another agent serves this node; waiting for it to end")
                waited = True
                await asyncio.sleep(LOCK_RETRY_S)
        if was_open:
            # Made anew from the log: on the old one somebody may have locks of before.
            (state_dir / f"{STORE}-shm").unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _keep_to_root(state_dir: pathlib.Path) -> bool:
    """Nobody else may look into `state_dir`: he could lock the store, and read whose memory it is.

    Kubelet makes the directory of a hostPath for everybody to read. Whether it was so until now.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = state_dir.stat().st_mode
    if mode & stat.S_IWOTH:
        raise SomError(
            f"the state directory {state_dir} can be written by everybody, so that nobody knows "
            "whose files are in it; give som a directory of its own"
        )
    if mode & 0o077:
        state_dir.chmod(0o700)
    return bool(mode & 0o077)


def _tickets(nodes: Iterable[int]) -> list[seams.Ticket]:
    return [
        seams.Ticket(f"n{node}-{number}") for node in nodes for number in range(TICKETS_PER_NODE)
    ]


def _collect(
    own_pools: pools.Pools, leases: list[state.Lease], held: Iterable[reconciler.Held]
) -> Iterable[core.Metric]:
    """Metrics that are read from pools and leases at each scrape."""
    pool_bytes = core.GaugeMetricFamily(
        "som_agent_pool_bytes", "Memory of a pool by state", labels=["pool", "state"]
    )
    shortfall = core.GaugeMetricFamily(
        "som_agent_pool_shortfall_bytes", "Ordered and not to be had", labels=["pool"]
    )
    for pool in own_pools.pools().values():
        allocated = status.allocated_bytes(pool.name, leases)
        pool_bytes.add_metric([pool.name, "free"], pool.free_bytes)
        pool_bytes.add_metric([pool.name, "allocated"], allocated)
        shortfall.add_metric([pool.name], max(0, pool.order.capacity - pool.capacity_bytes))
    yield pool_bytes
    yield shortfall
    starts = core.GaugeMetricFamily(
        "som_agent_lease_starts", "Starts of leases by state", labels=["state"]
    )
    records = [record for lease in leases for record in lease.starts]
    for each in state.State:
        starts.add_metric([each.value], sum(record.state is each for record in records))
    yield starts
    lease_bytes = core.GaugeMetricFamily(
        "som_lease_bytes",
        "Memory that a container holds, which cAdvisor does not see",
        labels=["namespace", "pod", "container", "pool"],
    )
    # A pod that was recreated has the labels of the one before it.
    by_owner: collections.Counter[tuple[str, ...]] = collections.Counter()
    for lease in leases:
        if lease.owner is not None and (record := lease.live) is not None:
            by_owner[*lease.owner.names, record.start.pool] += record.start.size_bytes
    for labels, size_bytes in by_owner.items():
        lease_bytes.add_metric(labels, size_bytes)
    yield lease_bytes
    held_bytes = core.GaugeMetricFamily(
        "som_agent_held_bytes",
        "Memory of ended leases that somebody still holds, by its last owner; "
        "of most owners, who are many, only by namespace",
        labels=["namespace", "pod"],
    )
    for labels, size_bytes in _by_last_owner(held).items():
        held_bytes.add_metric(labels, size_bytes)
    yield held_bytes


def _by_last_owner(held: Iterable[reconciler.Held]) -> Mapping[tuple[str, str], int]:
    """Bytes by namespace and pod: of pods, which come and go, the largest alone have a name."""
    by_pod: collections.Counter[tuple[str, str]] = collections.Counter()
    for each in held:
        if each.owner is not None:
            by_pod[each.owner.namespace, each.owner.pod] += each.size_bytes
    named = dict(by_pod.most_common(MOST_HELD_PODS))
    for (namespace, pod), size_bytes in by_pod.items():
        if (namespace, pod) not in named:
            named[namespace, ""] = named.get((namespace, ""), 0) + size_bytes
    return named
