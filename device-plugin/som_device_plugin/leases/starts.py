"""Builds starts and takes them away: the one place where a start's state changes.

The order is always: store what is to happen, then do it, and doing it twice is harmless. So an
agent that dies at any instruction finds in the store what it has to finish.
"""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence

from som_api import SomError, v1alpha1
from som_api.run import clock
from som_device_plugin import cdi, libsom, loops, metrics, pools, seams
from som_device_plugin.leases import decide, spares, state, store

log = logging.getLogger(__name__)

Key = tuple[seams.LeaseId, int]


@dataclasses.dataclass
class Build:
    """One under way: `error` is why it came to nothing, once its task has ended."""

    task: asyncio.Task[None]
    ready_bytes: int = 0
    error: str = ""


class Starts:
    """The starts of all `leases`. `wake` is set when something was freed or failed.

    `preloadable` is libsom on this node, for containers that ask for it.
    """

    def __init__(
        self,
        *,
        leases: store.LeaseStore,
        drivers: Mapping[str, seams.Driver],
        specs: cdi.Specs,
        boot_id: str,
        reporter: seams.Reporter,
        time: clock.Clock,
        preloadable: pathlib.Path | None = None,
    ) -> None:
        self.leases = leases
        self._preloadable = preloadable
        self._drivers = drivers
        self._specs = specs
        self._boot_id = boot_id
        self._reporter = reporter
        self._time = time
        self._builds: dict[Key, Build] = {}
        # Whose specs this agent has written, and what they say of content.
        self._said: dict[seams.LeaseId, bool] = {}
        self.wake = asyncio.Event()

    def begin(
        self, lease: state.Lease, pool: pools.ActivePool, *, preferred_node: int
    ) -> state.StartRecord:
        """Record the intention, then build the bound `lease`'s next start in the background."""
        assert lease.request is not None
        wish = spares.Wish(lease.request.size_bytes, preferred_node)
        start = self._start(lease.lease_id, lease.last_number + 1, pool, wish)
        record = self.leases.add_start(start, boot_id=self._boot_id)
        self._build_soon(start)
        return record

    def begin_spare(
        self, lease_id: seams.LeaseId, pool: pools.ActivePool, wish: spares.Wish
    ) -> Build:
        """Record the intention, then build a spare in the background; `lease_id` is new."""
        start = self._start(lease_id, 1, pool, wish)
        self.leases.add_spare(start, boot_id=self._boot_id)
        return self._build_soon(start)

    def keep(self, lease: state.Lease) -> bool:
        """Keep what the lease's owner, which is proven gone, left; no container begins with it.

        False: the lease is not as it was, or its driver keeps no content.
        """
        record = lease.live
        if record is None or self.leases.lease(lease.lease_id) != lease:
            return False
        if not self.keeps_content(record.start):
            return False
        step = state.step(record.state, state.Event.LEFT)
        left = dataclasses.replace(record, state=step.state, used=step.used)
        until_s = self._time.now().timestamp() + lease.keep_s
        self.leases.keep(lease.lease_id, left, until_s=until_s)
        self._specs.remove(lease.lease_id)
        return True

    def adopt(self, spare_id: seams.LeaseId, lease: state.Lease) -> state.StartRecord:
        """Record that the bound `lease` has the spare's start, and cut that in the background."""
        assert lease.request is not None
        size_bytes = lease.request.size_bytes
        record = self.leases.adopt(spare_id, lease.lease_id, size_bytes=size_bytes)
        self._build_soon(record.start)
        return record

    def free_bytes(self, pool: pools.ActivePool) -> int:
        """What no start of `pool` has, or is about to take.

        Raises:
            SomError: the kernel does not say what is still held.
        """
        taken_bytes = 0
        for lease in self.leases.leases():
            for record in lease.starts:
                start = record.start
                if start.pool == pool.name:
                    is_over = record.state is state.State.RELEASING
                    if is_over and key_of(start) not in self._builds:
                        taken_bytes += self._usage(start).held_bytes
                    else:
                        taken_bytes += start.size_bytes
        return min(pool.free_bytes, pool.capacity_bytes - taken_bytes)

    async def end_spare(self, lease_id: seams.LeaseId) -> None:
        """Give the memory of a spare back to its pool's free pages; returns when it is there."""
        lease = self.leases.lease(lease_id)
        if lease is None or not lease.is_spare:
            return
        self.leases.end(lease_id)
        for record in lease.starts:
            build = self._builds.get(key_of(record.start))
            if record.state is not state.State.RELEASING:
                await self.apply(record.start, state.Event.OWNER_GONE)
            if build is not None:
                await asyncio.wait([build.task])
                await self.apply(record.start, state.Event.STILL_MOUNTED)

    async def cut(self, pool: pools.ActivePool) -> None:
        """Returns when the spares of `pool` that were adopted are as large as their starts."""
        records = [(self.record(key), build.task) for key, build in self._builds.items()]
        tasks = [
            task
            for record, task in records
            if record and record.start.pool == pool.name and record.start.built_as
        ]
        if tasks:
            await asyncio.wait(tasks)

    def _start(
        self, lease_id: seams.LeaseId, number: int, pool: pools.ActivePool, wish: spares.Wish
    ) -> seams.Start:
        """A start in a slot that nobody has."""
        slots = self.leases.slots(pool.name)
        return seams.Start(
            lease_id=lease_id,
            number=number,
            pool=pool.name,
            slot=self._drivers[pool.driver].free_slot(pool=pool.name, named=slots),
            size_bytes=wish.size_bytes,
            page_bytes=pool.page_bytes,
            driver=pool.driver,
            preferred_node=wish.node,
        )

    def _build_soon(self, start: seams.Start) -> Build:
        build = Build(asyncio.create_task(self._build(start)))
        self._builds[key_of(start)] = build

        def is_over(_: asyncio.Task[None]) -> None:
            # Only now: reconciliation takes a start that nobody builds for one of a lost agent,
            # and so finishes one whose outcome could not be stored.
            del self._builds[key_of(start)]
            self.wake.set()

        # Of a task that was cancelled before it began, nothing else runs.
        build.task.add_done_callback(is_over)
        return build

    async def _build(self, start: seams.Start) -> None:
        """Build and record the outcome; a failure is kept for whoever waits for this start."""
        build = self._builds[key_of(start)]

        def progress(ready_bytes: int) -> None:
            build.ready_bytes = ready_bytes

        event = state.Event.BUILT
        try:
            try:
                lease = self.leases.lease(start.lease_id)
                is_spare = lease is not None and lease.is_spare
                # Nobody waits for a spare, and who gets it will be told where it is.
                with contextlib.nullcontext() if is_spare else metrics.BUILD_SECONDS.time():
                    placed = await self._drivers[start.driver].build(
                        start,
                        on_progress=progress,
                        is_spare=is_spare,
                        is_movable=bool(lease and lease.request and lease.request.is_movable),
                    )
                if not is_spare:
                    await self._report_placement(start, placed)
            except asyncio.CancelledError:
                event, build.error = state.Event.BUILD_FAILED, "its pod is gone"
            except Exception as error:
                event, build.error = state.Event.BUILD_FAILED, f"{error}; retrying"
                if isinstance(error, SomError):
                    log.warning(
                        "build failed", extra={"lease": start.lease_id, "error": str(error)}
                    )
                else:
                    loops.failed("build", error, lease=start.lease_id)
            await self.apply(start, event)
        except Exception as error:
            build.error = f"{error}; retrying"
            loops.failed("start", error, lease=start.lease_id)

    async def _report_placement(self, start: seams.Start, placed: Mapping[int, int]) -> None:
        elsewhere = {node: size for node, size in placed.items() if node != start.preferred_node}
        if start.preferred_node is None or not elsewhere:
            return
        where = ", ".join(f"{v1alpha1.format_bytes(b)} on {n}" for n, b in elsewhere.items())
        message = (
            f"lease {start.lease_id}: NUMA node {start.preferred_node} had too little free memory; "
            f"{where} instead"
        )
        await self._reporter.event(seams.Event("OtherNumaNode", message))

    async def built(self, start: seams.Start, *, deadline_s: float) -> None:
        """Returns when `start` is built.

        Raises:
            seams.StartRefused: it could not be built, or not before `deadline_s` (monotonic); then
                the build goes on.
        """
        build = self._builds.get(key_of(start))
        if build is None:
            return
        with contextlib.suppress(TimeoutError):
            async with self._time.timeout(deadline_s - self._time.monotonic()):
                await asyncio.wait([build.task])
        if not build.task.done():
            ready = v1alpha1.format_bytes(build.ready_bytes)
            size = v1alpha1.format_bytes(start.size_bytes)
            raise seams.StartRefused(
                f"som: warming {ready} of {size}, retrying, no action needed", reason="Warming"
            )
        if build.error:
            raise seams.StartRefused(f"som: {build.error}", reason="BuildFailed")

    async def kernel_view(self, leases: Sequence[state.Lease]) -> decide.KernelView:
        """What the kernel shows of the starts of `leases`, and mounts of som that are nobody's."""
        building = frozenset(self._builds)
        records = [record for lease in leases for record in lease.starts]
        keys = {record.start.built: key_of(record.start) for record in records}
        here = [record.start for record in records if record.boot_id == self._boot_id]

        def look() -> decide.KernelView:
            seen = [
                driver.look([start for start in here if start.driver == name])
                for name, driver in self._drivers.items()
            ]
            return decide.KernelView(
                boot_id=self._boot_id,
                attached={
                    keys.get(built, built): size_bytes
                    for each in seen
                    for built, size_bytes in each.attached.items()
                },
                usage={keys[built]: usage for each in seen for built, usage in each.usage.items()},
                building=building,
                resisting=frozenset(
                    keys.get(built, built) for each in seen for built in each.resisting
                ),
            )

        return await asyncio.to_thread(look)

    def _usage(self, start: seams.Start) -> seams.Usage:
        return self._drivers[start.driver].usage(start)

    def keeps_content(self, start: seams.Start) -> bool:
        """Whether a container that runs again with `start` finds what it wrote."""
        return self._drivers[start.driver].keeps_content

    def statistics(self, start: seams.Start) -> seams.Statistics | None:
        """What is done with `start`, if its driver counts."""
        return self._drivers[start.driver].statistics(start)

    def driver(self, pool: pools.ActivePool) -> seams.Driver:
        """The one that serves `pool`."""
        return self._drivers[pool.driver]

    def culprits(self, start: seams.Start) -> Sequence[str]:
        """Who holds `start`, as far as can be found out; may take long."""
        return self._drivers[start.driver].culprits(start)

    async def intact(self, record: state.StartRecord) -> bool:
        """Whether a start still stands, so that it can be given to a container, again or at all.

        By what it holds: its container may have punched holes into a file, or made it longer.
        """
        start = record.start
        if record.boot_id != self._boot_id:
            return False
        seen = await asyncio.to_thread(self._drivers[start.driver].look, [start])
        has_bytes = seen.usage[start.built].current_bytes
        return start.built in seen.attached and has_bytes >= start.size_bytes

    async def deliver(self, start: seams.Start) -> bool:
        """Have `start` found by the runtime, and record that its container is told to start.

        False: it was taken away meanwhile.

        Raises:
            cdi.CdiError: its spec could not be written.
        """
        record = self._startable(self.leases.lease(start.lease_id))
        if record is None or record.start != start:
            return False
        self._write_spec(record)
        if record.state is state.State.DELIVERED:
            # A warm restart is delivered again.
            return True
        is_told = await self.apply(start, state.Event.TOLD)
        if is_told and self._drivers[start.driver].zeroes_at_build:
            warm = str(bool(start.built_as)).lower()
            metrics.SERVED_BYTES.labels(warm=warm).inc(start.size_bytes)
        return is_told

    def _startable(self, lease: state.Lease | None) -> state.StartRecord | None:
        """The start that a container may begin with: delivered it has its spec, ready perhaps."""
        live = lease.live if lease else None
        startable = (state.State.READY, state.State.DELIVERED)
        if live is None or live.state not in startable or live.boot_id != self._boot_id:
            return None
        return live

    def tidy_specs(self) -> None:
        """Of each start that a container may begin with there is a true spec, and no other.

        A boot empties their directory, or anybody.

        Raises:
            SomError: the directory cannot be read or written, or a spec cannot be; after the rest.
        """
        failed: list[SomError] = []
        found = self._specs.leases()
        for lease_id in found:
            if self._startable(self.leases.lease(lease_id)) is None:
                self._specs.remove(lease_id)
        for lease in self.leases.leases():
            record = self._startable(lease)
            if record is None or record.state is not state.State.DELIVERED:
                continue
            if lease.lease_id not in found or self._said.get(lease.lease_id) is not record.used:
                try:
                    self._write_spec(record)
                except SomError as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    def _write_spec(self, record: state.StartRecord) -> None:
        start = record.start
        lease = self.leases.lease(start.lease_id)
        assert lease is not None and lease.request is not None
        is_kept = record.used and self.keeps_content(start)
        env = {
            "SOM_DEVICE": seams.DEVICE_PATH,
            "SOM_DRIVER": start.driver,
            "SOM_UNIT": lease.request.unit,
            "SOM_BYTES": str(start.size_bytes),
            "SOM_CONTENT": "kept" if is_kept else "fresh",
        }
        edits = self._drivers[start.driver].edits(start)
        if preload := lease.request.preload:
            if self._preloadable is None:
                raise cdi.CdiError("this agent's image has no libsom: use som's own image")
            env["LD_PRELOAD"] = preload
            library = seams.Mount(str(self._preloadable), libsom.IN_CONTAINER, libsom.MOUNT_OPTIONS)
            edits = dataclasses.replace(edits, mounts=(*edits.mounts, library))
        self._specs.write(start.lease_id, env=env, edits=edits)
        self._said[start.lease_id] = record.used

    async def apply(
        self, start: seams.Start, event: state.Event, *, seen: state.State | None = None
    ) -> bool:
        """Store the next state, then act. False: the start was forgotten, or is not as `seen`."""
        record = self.record(key_of(start))
        if record is None or seen not in (None, record.state):
            return False
        step = state.step(record.state, event)
        if step.state is not record.state:
            self.leases.set_state(start, step.state, now_s=self._time.now().timestamp())
        if step.used and not record.used:
            self.leases.set_used(start)
        for action in step.actions:
            match action:
                case state.Action.END_BUILD:
                    if build := self._builds.get(key_of(start)):
                        build.task.cancel()
                case state.Action.REVOKE:
                    # First, so that no container begins with what is being taken away.
                    if self._startable(self.leases.lease(start.lease_id)) is None:
                        self._specs.remove(start.lease_id)
                    await asyncio.to_thread(self._drivers[start.driver].revoke, start)
                    usage = await asyncio.to_thread(self._usage, start)
                    if usage.free and key_of(start) not in self._builds:
                        await self._forget_start(start)
                        self.wake.set()
                case state.Action.FORGET:
                    await self._forget_start(start)
        return True

    async def _forget_start(self, start: seams.Start) -> None:
        """Of one that was a spare its path goes as well, which no lease is named like."""
        if start.built_as:
            driver = self._drivers[start.driver]
            await asyncio.to_thread(driver.remove_path, start.built[0])
        self.leases.forget_start(start)

    async def forget(self, lease_id: seams.LeaseId) -> None:
        """Remove what is left of a lease that is over: its path, then its record."""
        for driver in self._drivers.values():
            await asyncio.to_thread(driver.remove_path, lease_id)
        self._said.pop(lease_id, None)
        self.leases.forget_ended(lease_id)

    def record(self, key: Key) -> state.StartRecord | None:
        """The start as stored now."""
        lease = self.leases.lease(key[0])
        records = lease.starts if lease else ()
        return next((record for record in records if record.start.number == key[1]), None)

    async def close(self) -> None:
        """End all builds; what they took is freed, what is delivered stays."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def key_of(start: seams.Start) -> Key:
    return start.lease_id, start.number
