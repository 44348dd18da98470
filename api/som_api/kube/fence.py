"""Whether a write may leave now, and when it must have ended.

A client with a fence (`Client.fenced`) asks it before each write, at the last moment. The fence
opens for a time that is known before (`open_until`), so that it closes by itself in a process that
hangs or was paused.
"""

import asyncio
import contextlib
import math
from collections.abc import Iterator

from som_api.kube import errors
from som_api.run import clock


class NotLeader(errors.KubeError):
    """The write was not sent: another process may lead, or is about to."""

    def __init__(self, attempted: str) -> None:
        super().__init__(
            attempted,
            status=0,
            reason="NotLeader",
            message="not sent, because this process does not lead; the leader will see to it",
        )
        self.is_race = True


class Fence:
    """Closed until `open_until`; moments are those of `time.monotonic()`."""

    def __init__(self, time: clock.Clock) -> None:
        self._time = time
        self._begin_until_s = -math.inf
        self._end_until_s = -math.inf
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_open(self) -> bool:
        """Whether a write may begin now."""
        return self._time.monotonic() < self._begin_until_s

    def open_until(self, begin_s: float, *, end_s: float) -> None:
        """Writes may begin before `begin_s`, and must have ended by `end_s`."""
        self._begin_until_s, self._end_until_s = begin_s, end_s

    def close(self) -> None:
        """No write begins any more; those under way go on."""
        self._begin_until_s = -math.inf

    def check(self, attempted: str) -> None:
        """Raise NotLeader where a write may not begin now."""
        if not self.is_open:
            raise NotLeader(attempted)

    @contextlib.contextmanager
    def writing(self, attempted: str) -> Iterator[float]:
        """A write under way; yields the seconds it may take. Raises NotLeader."""
        self.check(attempted)
        self._in_flight += 1
        self._idle.clear()
        try:
            yield self._end_until_s - self._time.monotonic()
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no write is under way."""
        await self._idle.wait()
