"""A queue of keys to reconcile.

A key that is added while it waits is worked on once; one that is added while it is being worked
on is worked on again afterwards, never twice at the same time. A key that failed comes back after
a pause that doubles for this key, and all failed keys together come back at a bounded rate, so
that a server that is down meets no flood from a large fleet.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NoReturn, TypeVar

from som_api.kube import backoff, clock, errors

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
RETRIES_PER_S = 10.0

K = TypeVar("K", bound=Hashable)
_log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """Runs `reconcile(key)` for each key added, at most `workers` of them at once.

    `reconcile` returns the seconds after which the key is due again, or None. Every Exception
    that it raises is logged, and the key comes back after its back-off.
    """

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        workers: int = 1,
        time: clock.Clock | None = None,
        jitter: backoff.Jitter | None = None,
    ) -> None:
        self._reconcile = reconcile
        self._workers = workers
        self._time = time or clock.SystemClock()
        self._jitter = jitter or random.Random()
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._due_s: dict[K, float] = {}
        self._backoffs: dict[K, backoff.Backoff] = {}
        self._next_retry_s = 0.0
        self._tasks: asyncio.TaskGroup | None = None

    def add(self, key: K) -> None:
        """Have `key` worked on as soon as a worker is free, whatever pause it is in."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._queue.put_nowait(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Have `key` worked on in `delay_s` seconds, or earlier if it is due earlier already."""
        due_s = self._time.monotonic() + delay_s
        if due_s < self._due_s.get(key, float("inf")):
            self._due_s[key] = due_s
            if self._tasks is not None:
                self._tasks.create_task(self._add_at(key, due_s))

    async def run(self) -> NoReturn:
        """Work until cancelled; then the keys being worked on are cancelled, too."""
        async with asyncio.TaskGroup() as self._tasks:
            for key, due_s in self._due_s.items():
                self._tasks.create_task(self._add_at(key, due_s))
            for _ in range(self._workers):
                self._tasks.create_task(self._work())
        raise AssertionError("workers run for ever")

    async def _add_at(self, key: K, due_s: float) -> None:
        await self._time.sleep(max(0.0, due_s - self._time.monotonic()))
        if self._due_s.get(key) == due_s:
            del self._due_s[key]
            self.add(key)

    async def _work(self) -> NoReturn:
        while True:
            key = await self._queue.get()
            self._waiting.remove(key)
            self._working.add(key)
            try:
                delay_s = await self._reconcile(key)
            except Exception as error:
                self._retry(key, error)
            else:
                self._backoffs.pop(key, None)
                if delay_s is not None:
                    self.add_after(key, delay_s)
            self._working.remove(key)
            if key in self._again:
                self._again.remove(key)
                self.add(key)

    def _retry(self, key: K, error: Exception) -> None:
        pauses = self._backoffs.get(key)
        if pauses is None:
            pauses = self._backoffs[key] = backoff.Backoff(
                jitter=self._jitter, first_s=FIRST_RETRY_S, longest_s=LONGEST_RETRY_S
            )
        now_s = self._time.monotonic()
        self._next_retry_s = max(now_s, self._next_retry_s) + 1 / RETRIES_PER_S
        pause_s = max(pauses.next_s(), self._next_retry_s - now_s)
        # What the server answered needs no traceback; anything else is a mistake of ours.
        trace = None if isinstance(error, errors.KubeError) else error
        _log.error("%s: %s; again in %.1f s", key, error, pause_s, exc_info=trace)
        self.add_after(key, pause_s)
