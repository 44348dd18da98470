"""Compares store, kernel and pods, and acts on every disagreement that is proven."""

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from typing import Final

from som_api import v1alpha1
from som_api.run import clock
from som_device_plugin import changes, loops, pools, seams
from som_device_plugin.leases import decide, starts, state, witnesses
from som_device_plugin.linux import expendable

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
RECONCILE_EVERY_S: Final = 10.0
HELD_REPORT_AFTER_S: Final = 10.0
DIAGNOSIS_LIMIT_S: Final = 10.0


@dataclasses.dataclass(frozen=True)
class Held:
    """A start that was taken away and whose memory somebody still holds."""

    start: seams.Start
    owner: seams.Owner | None
    size_bytes: int
    since_s: float


class Reconciler:
    """Ends leases, frees starts, reports what is wrong.

    `findings` is the last result; `held` is what stays with somebody after its release.
    """

    def __init__(
        self,
        *,
        own_starts: starts.Starts,
        own_pools: pools.Pools,
        own_witnesses: witnesses.Witnesses,
        reporter: seams.Reporter,
        changed: changes.Changes,
        time: clock.Clock,
    ) -> None:
        self._starts = own_starts
        self._store = own_starts.leases
        self._pools = own_pools
        self._witnesses = own_witnesses
        self._reporter = reporter
        self._changed = changed
        self._time = time
        self._one_at_a_time = asyncio.Lock()
        self._begun = self._completed = 0
        self._looked_at_s = self._time.monotonic()
        self.held: dict[starts.Key, Held] = {}
        self._held_reported: set[starts.Key] = set()
        self._diagnosis = expendable.Thread(limit_s=DIAGNOSIS_LIMIT_S)
        self.findings: tuple[decide.Finding, ...] = ()

    async def run(self) -> None:
        """Reconcile whenever a lease is in doubt, and now and then; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(loops.repeat("reconcile", self._look, time=self._time))
            group.create_task(loops.repeat("held memory", self._report_held, time=self._time))

    async def _look(self) -> None:
        wake = self._starts.wake
        await loops.wait(wake, at_most_s=LOOK_EVERY_S, time=self._time)
        due = self._time.monotonic() - self._looked_at_s >= RECONCILE_EVERY_S
        if wake.is_set() or due or self._in_doubt():
            wake.clear()
            self._looked_at_s = self._time.monotonic()
            await self.reconcile()

    def _in_doubt(self) -> bool:
        """Whether a pod has gone whose lease stands, or memory waits to become free."""
        live = decide.live_uids(self._witnesses.pods)
        return any(
            decide.pod_is_gone(lease, live)
            or any(record.state is state.State.RELEASING for record in lease.starts)
            for lease in self._store.leases()
        )

    async def reconcile(self) -> None:
        """One pass over all leases, begun after this call; those who wait for one share it.

        Safe beside PreStartContainer: a start that moved on is left alone, because `Starts.apply`
        looks again.

        Raises:
            SomError: the kernel or the store refused; whatever was done until then stands.
        """
        begun_before = self._begun
        async with self._one_at_a_time:
            if self._completed > begun_before:
                return
            self._begun += 1
            number = self._begun
            await self._pass()
            self._completed = number

    async def _pass(self) -> None:
        leases = self._store.leases()
        kernel = await self._starts.kernel_view(leases)
        # A start that was begun meanwhile is no stray.
        findings = decide.strays([*leases, *self._store.leases()], kernel)
        pods = await self._witnesses.view(leases)
        for lease in leases:
            try:
                findings += await self._reconcile_lease(lease, leases, kernel, pods)
            except Exception as error:
                # One lease must not keep the others from being released.
                loops.failed("lease", error, lease=lease.lease_id)
        for finding in set(findings) - set(self.findings):
            message = f"lease {finding.lease_id}: {finding.outcome.value}"
            if finding.outcome is decide.Outcome.OLD_CONTENT:
                await self._reporter.event(seams.Event("ContentKept", message, warning=True))
            if finding.outcome is state.Event.LOST:
                await self._reporter.event(seams.Event("LeaseLost", message, warning=True))
        if tuple(findings) != self.findings:
            self.findings = tuple(findings)
            self._changed.ring()
        for lease in self._store.leases():
            if (lease.ended or lease.is_spare) and not lease.starts:
                try:
                    await self._starts.forget(lease.lease_id)
                except Exception as error:
                    loops.failed("lease", error, lease=lease.lease_id)
        try:
            self._starts.tidy_specs()
        except Exception as error:
            # What is freed goes back all the same.
            loops.failed("specs", error)
        self._note_held(leases, kernel)
        await self._pools.refill()

    async def _reconcile_lease(
        self,
        lease: state.Lease,
        leases: Sequence[state.Lease],
        kernel: decide.KernelView,
        pods: decide.PodView,
    ) -> list[decide.Finding]:
        about_owner = decide.about_owner(lease, leases, pods)
        is_owner_gone = about_owner is state.Event.OWNER_GONE
        findings = [decide.Finding(about_owner, lease.lease_id)]
        is_kept = is_owner_gone and decide.is_left(lease, self._store.leases(), kernel)
        if is_kept and self._starts.keep(lease):
            log.info("content kept", extra={"lease": lease.lease_id, "owner": str(lease.owner)})
            return [decide.Finding(decide.Outcome.KEPT, lease.lease_id)]
        if is_owner_gone and not lease.ended:
            log.info("lease ended", extra={"lease": lease.lease_id, "owner": str(lease.owner)})
            self._store.end(lease.lease_id)
        for record in lease.starts:
            about = decide.about_start(lease, record, kernel, is_owner_gone=is_owner_gone)
            keeps_content = self._starts.keeps_content(record.start)
            if record is lease.live and keeps_content and not isinstance(about, state.Event):
                content = decide.about_content(lease, record, pods)
                # First: a damage is there in the next pass, too.
                about = content if content is state.Event.USED else about or content
            if about is None or self._starts.record(starts.key_of(record.start)) != record:
                continue
            findings.append(decide.Finding(about, lease.lease_id, record.start.number))
            if isinstance(about, state.Event):
                await self._starts.apply(record.start, about, seen=record.state)
        return findings

    def _note_held(self, leases: Sequence[state.Lease], kernel: decide.KernelView) -> None:
        """Keep what is held after its release, with its last owner, and since when."""
        found = {(finding.lease_id, finding.number): finding.outcome for finding in self.findings}
        now_s, known, self.held = self._time.monotonic(), self.held, {}
        for lease in leases:
            for record in lease.starts:
                key = starts.key_of(record.start)
                if found.get(key) in decide.KEPT_BY_HOLDERS:
                    self.held[key] = Held(
                        start=record.start,
                        owner=lease.owner,
                        size_bytes=kernel.usage[key].held_bytes,
                        since_s=known[key].since_s if key in known else now_s,
                    )
        self._held_reported &= self.held.keys()

    @property
    def longest_held_s(self) -> float:
        """How long what is held has been held after its release, the oldest; 0 when nothing is."""
        now_s = self._time.monotonic()
        return max((now_s - held.since_s for held in self.held.values()), default=0.0)

    async def _report_held(self) -> None:
        """Tell the admin once about memory that stays with a holder after its release.

        Beside the passes, because holders can make it slow to find out who they are.
        """
        await self._time.sleep(LOOK_EVERY_S)
        for key, held in self.held.items():
            held_s = self._time.monotonic() - held.since_s
            if key in self._held_reported or held_s < HELD_REPORT_AFTER_S:
                continue
            loops.beat()
            self._held_reported.add(key)
            size = v1alpha1.format_bytes(held.size_bytes)
            message = (
                f"{size} of {held.owner} (lease {key[0]}, which has ended) are still held by "
                f"{await self._culprits(held.start)}; not offered meanwhile"
            )
            await self._reporter.event(seams.Event("LeaseHeld", message, warning=True))

    async def _culprits(self, start: seams.Start) -> str:
        """In words; a guess that fails is one that was not made."""
        try:
            found = await self._diagnosis.run(self._starts.culprits, start)
        except TimeoutError:
            return f"a process that was not found within {DIAGNOSIS_LIMIT_S:.0f} s"
        except Exception as error:
            loops.failed("culprits", error, lease=start.lease_id)
            return "a process that could not be found; the agent's log says why"
        return ", ".join(found) or "a pin in the kernel, whose process cannot be named"
