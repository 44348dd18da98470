"""The node agent, put together: orders in, pools, leases, kubelet, reports out.

One agent per node at a time, by a file lock. An agent that waits for it is alive and ready, opens
no store and registers nothing, so that the pod of an update may start before the old one ends.
"""

import asyncio
import contextlib
import dataclasses
import functools
import pathlib
from concurrent import futures
from typing import Final

from prometheus_client import registry

from som_api import endpoint
from som_api.run import clock
from som_device_plugin import (
    backends,
    cdi,
    changes,
    collected,
    database,
    libsom,
    loops,
    pods,
    pools,
    seams,
    state_dir,
    status,
    telling,
)
from som_device_plugin.kubelet import plugin, podresources, registration, setup, turns
from som_device_plugin.leases import (
    compaction,
    keeper,
    reconciler,
    service,
    starts,
    store,
    witnesses,
)
from som_device_plugin.linux import cgroups, hugepages, modules, mountinfo
from som_device_plugin.sources.hugetlb import plan

BOOT_ID: Final = pathlib.Path("/proc/sys/kernel/random/boot_id")
THREADS: Final = 32
REPORT_COALESCE_S: Final = 0.2


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the agent works. `own_pod` is `namespace/name`, as PodResources lists it.

    `tls_dir` has, or will have, the certificates for telling the operator of leases; None: nobody
    is told. `libsom`: where the agent's image has it; None: no container can ask for it.
    """

    state_dir: pathlib.Path
    kubelet: setup.Directories
    endpoint: str
    own_pod: str
    guard: plan.Guard
    cdi_dir: pathlib.Path = cdi.DIRECTORY
    tls_dir: pathlib.Path | None = None
    libsom: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class _Parts:
    pools: pools.Pools
    leases: store.LeaseStore
    starts: starts.Starts
    reconciler: reconciler.Reconciler
    keeper: keeper.Keeper
    tickets: service.TicketService
    turns: turns.Turns
    boot_id: str


class Agent:
    """Runs everything; `run` returns only by cancellation or error."""

    def __init__(self, settings: Settings, outside: seams.Outside) -> None:
        self._settings = settings
        self._outside = outside
        self._changed = changes.Changes()
        self._time = clock.SystemClock()
        self._why_not_ready = ""

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            SomError: this node cannot serve leases; says why and what to do.
            endpoint.EndpointError: its endpoint cannot listen.
        """
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                endpoint.serve(
                    address=self._settings.endpoint,
                    not_ready=lambda: self._why_not_ready,
                    unhealthy=loops.BEATS.late,
                )
            )
            await stack.enter_async_context(state_dir.only_agent(self._settings.state_dir))
            # By default there are few, of which some wait for a worker or a lock.
            threads = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="som")
            asyncio.get_running_loop().set_default_executor(threads)
            self._why_not_ready = "starting"
            await self._serve(stack)

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        boot_id = BOOT_ID.read_text(encoding="ascii").strip()
        own_backends = backends.Backends(
            self._settings.state_dir, boot_id=boot_id, guard=self._settings.guard
        )
        for driver in own_backends.drivers.values():
            stack.push_async_callback(driver.close)
            driver.self_check()
            # Before the pools are looked at: what the last agent left running may lock them.
            await asyncio.to_thread(driver.end_builders)
        parts = self._parts(stack, own_backends, boot_id)
        collector = collected.Collected(parts.pools, parts.leases, parts.reconciler, parts.starts)
        registry.REGISTRY.register(collector)
        stack.callback(registry.REGISTRY.unregister, collector)
        await loops.until_done("first look", parts.pools.look)
        await loops.until_done("first look", parts.reconciler.reconcile)
        self._why_not_ready = ""
        own_compaction = compaction.Compaction(
            own_starts=parts.starts, own_pools=parts.pools, time=self._time
        )
        report = functools.partial(self._report, parts, self._changed.listen())
        async with asyncio.TaskGroup() as group:
            group.create_task(parts.pools.run(self._outside.specs))
            group.create_task(parts.reconciler.run())
            group.create_task(parts.keeper.run())
            group.create_task(own_compaction.run())
            group.create_task(loops.repeat("report", report))
            if tls_dir := self._settings.tls_dir:
                teller = telling.Teller(tls_dir, parts.leases.leases, time=self._time)
                group.create_task(loops.repeat("telling", teller.run))
            group.create_task(
                loops.repeat("kubelet", functools.partial(self._keep_registered, parts))
            )

    def _parts(
        self, stack: contextlib.AsyncExitStack, own_backends: backends.Backends, boot_id: str
    ) -> _Parts:
        settings, outside = self._settings, self._outside
        connection = database.open_database(settings.state_dir / state_dir.STORE)
        taking_turns = turns.Turns(time=self._time)
        resources = podresources.Client(
            settings.kubelet.pod_resources_socket, taking_turns=taking_turns, time=self._time
        )
        stack.push_async_callback(resources.close)
        own_pools = pools.Pools(
            backend_of=own_backends.of,
            connection=connection,
            promised_bytes=functools.partial(pods.promised_bytes, outside.pods),
            read_setup=lambda: setup.read(
                settings.kubelet, hierarchy=cgroups.find(mountinfo.read())
            ),
            reporter=outside.reporter,
            changed=self._changed,
            time=self._time,
        )
        leases = store.LeaseStore(connection, self._changed)
        own_starts = starts.Starts(
            leases=leases,
            drivers=own_backends.drivers,
            specs=cdi.Specs(settings.cdi_dir),
            boot_id=boot_id,
            reporter=outside.reporter,
            time=self._time,
            preloadable=settings.libsom and libsom.install(settings.libsom, settings.state_dir),
        )
        stack.push_async_callback(own_starts.close)
        own_witnesses = witnesses.Witnesses(outside.pods, resources, settings.own_pod)
        own_reconciler = reconciler.Reconciler(
            own_starts=own_starts,
            own_pools=own_pools,
            own_witnesses=own_witnesses,
            reporter=outside.reporter,
            changed=self._changed,
            time=self._time,
        )
        own_keeper = keeper.Keeper(
            own_starts=own_starts, own_pools=own_pools, changed=self._changed, time=self._time
        )
        tickets = service.TicketService(
            own_starts=own_starts,
            own_reconciler=own_reconciler,
            own_keeper=own_keeper,
            own_pools=own_pools,
            own_witnesses=own_witnesses,
            numa_nodes=hugepages.nodes(),
            reporter=outside.reporter,
            changed=self._changed,
            time=self._time,
        )
        return _Parts(
            own_pools,
            leases,
            own_starts,
            own_reconciler,
            own_keeper,
            tickets,
            taking_turns,
            boot_id,
        )

    async def _keep_registered(self, parts: _Parts) -> None:
        """Advertise nothing before there is something to serve: memory, or leases of before."""
        loops.rest()
        while not parts.pools.ready and not parts.leases.leases():
            await parts.tickets.changed()
            parts.tickets.devices()
        device_plugin = plugin.DevicePlugin(
            parts.tickets, taking_turns=parts.turns, time=self._time
        )
        kept = registration.Registration(
            device_plugin, directory=self._settings.kubelet.plugins, time=self._time
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(device_plugin.run())
            group.create_task(kept.run())

    async def _report(self, parts: _Parts, changed: asyncio.Event) -> None:
        changed.clear()
        await self._outside.reporter.report(
            status.node_status(
                generation=parts.pools.generation,
                boot_id=parts.boot_id,
                active=parts.pools.pools(),
                leases=parts.leases.leases(),
                findings=parts.reconciler.findings,
                found_setup=parts.pools.setup,
                pod_names={
                    pod.uid: f"{pod.namespace}/{pod.name}" for pod in self._outside.pods.pods()
                },
                huge_pages=hugepages.total_bytes(),
                memory_bytes=hugepages.memory().total_bytes,
                module=modules.loaded("som"),
            )
        )
        await self._time.sleep(REPORT_COALESCE_S)
        await loops.wait(changed, at_most_s=None)
