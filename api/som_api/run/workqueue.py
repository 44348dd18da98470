"""A queue of keys to reconcile.

A key that is added while it waits is worked on once; one that is added while it is being worked
on is worked on again afterwards, never twice at the same time. A key that failed comes back after
a pause that doubles for this key, and all failed keys together come back at a bounded rate, so
that a server that is down meets no flood from a large fleet.

Two lines wait, and of four turns three are the urgent one's: what one object did is answered
though thousands of keys wait, and they go on meanwhile. The event loop has its turn after each
key: a reconcile that writes nothing never suspends by itself.
"""

import asyncio
import collections
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NoReturn, TypeVar

from som_api import SomError
from som_api.run import backoff, clock, durations, heartbeats

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
RETRIES_PER_S = 10.0
URGENT_TURNS = 3
"""For each turn of the ordinary line: about as often as what is begun there makes its key due."""

K = TypeVar("K", bound=Hashable)
Reconcile = Callable[[K], Awaitable[float | None]]
_log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """The keys that are due, each once; `run` works on them.

    With `beats`, the process is unhealthy once a reconcile hangs. `name` says what the keys are.
    `retries` counts how often a key failed and was put back, `waited` how long keys were due.
    """

    def __init__(
        self,
        *,
        name: str = "",
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock | None = None,
        jitter: backoff.Jitter | None = None,
    ) -> None:
        self.name = name
        self._beats = beats or heartbeats.Heartbeats()
        self._time = time or clock.SystemClock()
        self._jitter = jitter or random.Random()
        # Key -> since when it waits, first come first.
        self._urgent: collections.OrderedDict[K, float] = collections.OrderedDict()
        self._ordinary: collections.OrderedDict[K, float] = collections.OrderedDict()
        self._turns = 0
        self._filled = asyncio.Semaphore(0)
        self._working: set[K] = set()
        self._again: dict[K, bool] = {}
        self._due_s: dict[K, float] = {}
        self._backoffs: dict[K, backoff.Backoff] = {}
        self._next_retry_s = 0.0
        self.retries = 0
        self.waited = durations.Durations()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def depth(self) -> int:
        """Keys that wait for a worker; 0 while nobody works on them."""
        return 0 if self._tasks is None else len(self._urgent) + len(self._ordinary)

    @property
    def age_s(self) -> float:
        """How long the first key in line has waited for a worker; 0 when none waits."""
        if self._tasks is None:
            return 0.0
        firsts = [next(iter(line.values())) for line in (self._urgent, self._ordinary) if line]
        return self._time.monotonic() - min(firsts) if firsts else 0.0

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Have `key` worked on as soon as a worker is free, whatever pause it is in.

        `urgent` for what one object did, not for what concerns all of them.
        """
        if key in self._working:
            self._again[key] = urgent or self._again.get(key, False)
        elif key in self._urgent:
            return
        elif urgent and key in self._ordinary:
            self._urgent[key] = self._ordinary.pop(key)
        elif key not in self._ordinary:
            line = self._urgent if urgent else self._ordinary
            line[key] = self._time.monotonic()
            self._filled.release()

    def add_after(self, key: K, delay_s: float) -> None:
        """Have `key` worked on in `delay_s` seconds, or earlier if it is due earlier already."""
        due_s = self._time.monotonic() + delay_s
        if due_s < self._due_s.get(key, float("inf")):
            self._due_s[key] = due_s
            if self._tasks is not None:
                self._tasks.create_task(self._add_at(key, due_s))

    def clear(self) -> None:
        """Forget the keys that wait for a worker; while nobody works on them."""
        self._urgent.clear()
        self._ordinary.clear()
        self._filled = asyncio.Semaphore(0)

    async def run(self, reconcile: Reconcile[K], *, workers: int = 1) -> NoReturn:
        """Work on at most `workers` keys at once until cancelled; then they are cancelled, too.

        `reconcile` returns the seconds after which the key is due again, or None. Every Exception
        that it raises is counted and logged, and the key comes back after its back-off; a race
        (`SomError.is_race`) is ordinary, and no error.
        """
        now_s = self._time.monotonic()
        for line in (self._urgent, self._ordinary):
            line.update(dict.fromkeys(line, now_s))
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for key, due_s in self._due_s.items():
                    self._tasks.create_task(self._add_at(key, due_s))
                for _ in range(workers):
                    self._tasks.create_task(self._work(reconcile))
        finally:
            self._tasks = None
        raise AssertionError("workers run for ever")

    async def _add_at(self, key: K, due_s: float) -> None:
        await self._time.sleep(max(0.0, due_s - self._time.monotonic()))
        if self._due_s.get(key) == due_s:
            del self._due_s[key]
            self.add(key)

    async def _work(self, reconcile: Reconcile[K]) -> NoReturn:
        while True:
            await self._filled.acquire()
            key = self._next()
            self._working.add(key)
            beat = f"reconcile of {self.name} {key}"
            self._beats.beat(beat)
            try:
                delay_s = await reconcile(key)
            except Exception as error:
                self._retry(key, error)
            except BaseException:
                # Not done: whoever runs the queue again begins with it.
                self._again.setdefault(key, False)
                raise
            else:
                self._backoffs.pop(key, None)
                if delay_s is not None:
                    self.add_after(key, delay_s)
            finally:
                self._beats.rest(beat)
                self._working.remove(key)
                if key in self._again:
                    self.add(key, urgent=self._again.pop(key))
            await asyncio.sleep(0)

    def _next(self) -> K:
        self._turns += 1
        prefers_urgent = self._turns % (URGENT_TURNS + 1) > 0
        is_urgent = bool(self._urgent) and (prefers_urgent or not self._ordinary)
        key, since_s = (self._urgent if is_urgent else self._ordinary).popitem(last=False)
        self.waited.note(self._time.monotonic() - since_s)
        return key

    def _retry(self, key: K, error: Exception) -> None:
        pauses = self._backoffs.get(key)
        if pauses is None:
            pauses = self._backoffs[key] = backoff.Backoff(
                jitter=self._jitter, first_s=FIRST_RETRY_S, longest_s=LONGEST_RETRY_S
            )
        self.retries += 1
        pause_s = pauses.next_s()
        if isinstance(error, SomError) and error.is_race:
            _log.debug("%s: %s; again in %.1f s", key, error, pause_s)
        else:
            now_s = self._time.monotonic()
            self._next_retry_s = max(now_s, self._next_retry_s) + 1 / RETRIES_PER_S
            pause_s = max(pause_s, self._next_retry_s - now_s)
            # What was foreseen needs no traceback; anything else is a mistake of ours.
            trace = None if isinstance(error, SomError) else error
            _log.error("%s: %s; again in %.1f s", key, error, pause_s, exc_info=trace)
        self.add_after(key, pause_s)
