"""Which of several processes leads: an election over one Lease object of coordination.k8s.io/v1.

Theory of operation. The leader writes the Lease every `RETRY_S`. Whoever else wants to lead reads
it as often, and takes it when it has not changed for `DURATION_S`, measured by its own monotonic
clock since it saw the last change; the times inside the object are for people. Each write says
which version it replaces, so that of two that take it one fails.

A leader counts from the moment before it sent the last write that succeeded. No write of its
controllers begins later than `RENEW_WITHIN_S` after that, and each ends, or is given up, within
`DURATION_S - MARGIN_S`. Nobody saw that write of the Lease before it was sent, so nobody else leads
before `DURATION_S` is over. The fence keeps this even in a process that was paused. What such
a process had given to its network before, preconditions keep out: see docs/design/0009-election.md.

The Lease is free at once where its holder has released it (no holder, and a duration of 1 s, as
client-go writes it), and where it is new and this process has seen no other. Everything else that
somebody may do to it counts as a change after which `DURATION_S` pass. Who finds that it was
deleted makes it again, for nobody: that it is not there has no version, so that a second time would
look like the first, and only a write with a version may name a leader.
"""

import asyncio
import dataclasses
import datetime
import logging
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from som_api import SomError
from som_api.kube import client, errors, fence
from som_api.kube.resource import Json, Resource
from som_api.run import backoff, clock, heartbeats

LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
DURATION_S: Final = 12.0
RENEW_WITHIN_S: Final = 8.0
MARGIN_S: Final = 1.0
RETRY_S: Final = 2.0
JITTER: Final = 0.2
LONGEST_RETRY_S: Final = 8.0
"""Of candidates while the server fails, so that each sends at most 10 requests in 30 s."""
ATTEMPT_S: Final = 3.0
"""One request for the Lease: a server that hangs costs the leader one of several attempts."""
STOP_S: Final = 3.0
"""How long writes that are under way are waited for when the leader stops."""
LONGEST_S: Final = 60.0
"""Of what a Lease says about its own duration: a leader of another release may need longer."""
_RELEASED_S: Final = 1

Work = Callable[[], Coroutine[Any, Any, object]]
_log = logging.getLogger(__name__)


class LeaderDied(SomError):
    """The work of the leader ended, though it should go on for ever."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a Lease says: `version` is its resourceVersion; `holder` is empty where nobody holds."""

    version: str
    holder: str
    duration_s: float
    transitions: int
    acquired: str

    @property
    def is_released(self) -> bool:
        """Whether its last holder gave it up."""
        return not self.holder and self.duration_s == _RELEASED_S

    @property
    def is_new(self) -> bool:
        """Whether nobody ever held it."""
        return not self.holder and not self.duration_s


def read(lease: Json) -> Record:
    """The record of a Lease of the API server. Raises KubeError."""
    try:
        spec: dict[str, Any] = lease.get("spec") or {}
        return Record(
            version=lease["metadata"]["resourceVersion"],
            holder=spec.get("holderIdentity") or "",
            duration_s=float(spec.get("leaseDurationSeconds") or 0),
            transitions=int(spec.get("leaseTransitions") or 0),
            acquired=spec.get("acquireTime") or "",
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.KubeError(
            "read a Lease", status=0, reason="BadAnswer", message=repr(error)
        ) from error


class Sight:
    """What a candidate has seen of the Lease, and when it may take it."""

    def __init__(self) -> None:
        self._version: str | None = None
        self.free_at_s = math.inf

    def see(self, record: Record, *, now_s: float) -> None:
        """Note how the Lease is."""
        if record.version == self._version:
            return
        is_first, self._version = self._version is None, record.version
        if record.is_released or (record.is_new and is_first):
            self.free_at_s = now_s
        else:
            self.free_at_s = now_s + max(DURATION_S, min(record.duration_s, LONGEST_S))


class Election:
    """One candidate; `identity` names the process, and no other one ever.

    `fence` is open while it leads: see `Client.fenced`. `changes` counts how often it began or
    ceased to lead.
    """

    def __init__(
        self,
        kube: client.Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        time: clock.Clock | None = None,
        jitter: backoff.Jitter | None = None,
        beats: heartbeats.Heartbeats | None = None,
    ) -> None:
        self._kube = kube
        self._collection = LEASES.path(namespace=namespace)
        self._path = LEASES.path(namespace=namespace, name=name)
        self._name = name
        self._identity = identity
        self._time = time or clock.SystemClock()
        self._jitter = jitter or random.Random()
        self._beats = beats or heartbeats.Heartbeats()
        self._sight = Sight()
        self._held: Record | None = None
        self._lead_until_s = -math.inf
        self._problem = ""
        self.fence = fence.Fence(self._time)
        self.changes = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process leads now. It may not a moment later: writes go by the fence."""
        return self.fence.is_open

    async def run(self, work: Work) -> NoReturn:
        """Do `work` whenever this process leads, until cancelled; then let another one lead.

        `work` is cancelled when the lease is lost. Errors of the API server are outlived.

        Raises:
            LeaderDied: `work` ended by itself. What it raises is raised, too.
        """
        while True:
            await self._win()
            self.changes += 1
            _log.info("leads", extra={"identity": self._identity})
            try:
                await self._lead(work)
            finally:
                self.changes += 1
                _log.warning("leads no more", extra={"identity": self._identity})

    async def _win(self) -> None:
        """Return when the Lease is ours."""
        failing = backoff.Backoff(jitter=self._jitter, first_s=RETRY_S, longest_s=LONGEST_RETRY_S)
        while True:
            self._beat()
            pause_s = self._pause_s()
            try:
                async with self._time.timeout(ATTEMPT_S):
                    record = await self._look()
                now_s = self._time.monotonic()
                self._sight.see(record, now_s=now_s)
                if record.holder == self._identity or now_s >= self._sight.free_at_s:
                    async with self._time.timeout(ATTEMPT_S):
                        await self._write(record)
                    if self.is_leader:
                        return
                failing.reset()
            except (errors.KubeError, TimeoutError) as error:
                self._complain(error)
                pause_s = failing.next_s()
            left_s = self._sight.free_at_s - self._time.monotonic()
            await self._time.sleep(min(pause_s, left_s) if left_s > 0 else pause_s)

    async def _lead(self, work: Work) -> None:
        """Do `work` until the lease is lost."""
        working = asyncio.create_task(work())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_lost, is_dead = renewing.done(), working.done()
            self.fence.close()
            renewing.cancel()
            # The lease stands for some seconds more: long enough for writes to end in order. After
            # one that does not, the others wait as they do for a leader that is lost.
            is_idle = not is_lost and await self._is_idle()
            working.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            if is_idle:
                await self._release()
        if is_lost:
            renewing.result()
        if is_dead:
            if not working.cancelled():
                working.result()
            raise LeaderDied("the leader's work ended, and nobody had told it to")

    async def _is_idle(self) -> bool:
        """Wait until no write is under way; False where that takes too long."""
        try:
            async with self._time.timeout(STOP_S):
                await self.fence.idle()
        except TimeoutError:
            return False
        return True

    async def _renew(self) -> None:
        """Keep the lease; return when it is lost."""
        pause_s = self._pause_s()
        while True:
            await self._time.sleep(min(pause_s, self._left_s()))
            self._beat()
            if (left_s := self._left_s()) <= 0:
                _log.warning("%s was not renewed within %.0f s", self._path, RENEW_WITHIN_S)
                return
            pause_s = self._pause_s()
            try:
                async with self._time.timeout(min(ATTEMPT_S, left_s)):
                    if not await self._renewed():
                        return
            except (errors.KubeError, TimeoutError) as error:
                self._complain(error)

    async def _renewed(self) -> bool:
        """Write the Lease; False where it is somebody else's."""
        assert self._held is not None
        try:
            await self._write(self._held)
        except errors.KubeError as error:
            if error.status not in (404, 409):
                raise
        else:
            return True
        # Somebody edited or deleted it, or a write of ours succeeded and its answer was lost.
        record = await self._look()
        if record.holder not in (self._identity, ""):
            _log.warning("%s is held by %s", self._path, record.holder)
            self._sight.see(record, now_s=self._time.monotonic())
            return False
        await self._write(record)
        return True

    async def _look(self) -> Record:
        """The Lease as it is, made for nobody where there is none. Raises KubeError."""
        try:
            return read(await self._kube.get(self._path))
        except errors.KubeError as error:
            if error.status != 404:
                raise
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name},
            # With it, not even who sees it first takes it for a new one.
            "spec": {"leaseDurationSeconds": round(DURATION_S)},
        }
        return read(await self._kube.create(self._collection, lease))

    async def _write(self, record: Record) -> None:
        """Put ourselves into the Lease that `record` was read from, and lead from now on.

        Raises KubeError: 409 where it has changed since, 404 where it is gone.
        """
        sent_s, now = self._time.monotonic(), _micro(self._time.now())
        is_renewal = record.holder == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(DURATION_S),
            "acquireTime": record.acquired if is_renewal else now,
            "renewTime": now,
            "leaseTransitions": record.transitions + (not is_renewal),
        }
        lease = await self._replace(record, spec)
        self._held, self._problem = read(lease), ""
        self._sight.see(self._held, now_s=self._time.monotonic())
        self._lead_until_s = sent_s + RENEW_WITHIN_S
        self.fence.open_until(self._lead_until_s, end_s=sent_s + DURATION_S - MARGIN_S)

    async def _release(self) -> None:
        """Let the others take the Lease at once, where the server hears us."""
        assert self._held is not None
        now = _micro(self._time.now())
        spec = {
            "leaseDurationSeconds": _RELEASED_S,
            "renewTime": now,
            "leaseTransitions": self._held.transitions,
        }
        try:
            async with self._time.timeout(ATTEMPT_S):
                released = await self._replace(self._held, spec)
        except (errors.KubeError, TimeoutError) as error:
            self._complain(error)
        else:
            self._sight.see(read(released), now_s=self._time.monotonic())

    async def _replace(self, record: Record, spec: Json) -> Json:
        return await self._kube.json_patch(
            self._path,
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": record.version},
                {"op": "add", "path": "/spec", "value": spec},
            ],
        )

    def _left_s(self) -> float:
        return max(0.0, self._lead_until_s - self._time.monotonic())

    def _pause_s(self) -> float:
        return RETRY_S * self._jitter.uniform(1 - JITTER, 1 + JITTER)

    def _complain(self, error: Exception) -> None:
        """Log what is new: a server that is away is asked every `RETRY_S`."""
        problem = str(error) or f"the API server did not answer within {ATTEMPT_S:.0f} s"
        if problem != self._problem:
            self._problem = problem
            _log.warning("election by %s: %s", self._path, problem)

    def _beat(self) -> None:
        self._beats.beat(f"election of {self._name}")


def _micro(moment: datetime.datetime) -> str:
    """As Kubernetes writes metav1.MicroTime."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
