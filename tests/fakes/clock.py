"""A clock that a test owns."""

import asyncio
import contextlib
import datetime
import functools
import heapq
import itertools
from collections.abc import AsyncIterator, Callable

import waiting

TURNS = 20


class FakeClock:
    """Stands still until `advance`; with `runs_ahead`, every sleep is over at once, no timeout is.

    `sleeps` holds the duration of each sleep, in the order in which they began.
    """

    def __init__(self, *, runs_ahead: bool = False) -> None:
        self.sleeps: list[float] = []
        self._runs_ahead = runs_ahead
        self._now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self._now_s

    def now(self) -> datetime.datetime:
        start = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
        return start + datetime.timedelta(seconds=self._now_s)

    async def sleep(self, delay_s: float) -> None:
        self.sleeps.append(delay_s)
        due_s = self._now_s + delay_s
        if self._runs_ahead or delay_s <= 0:
            await asyncio.sleep(0)
            self._now_s = max(self._now_s, due_s)
            return
        is_over = asyncio.Event()
        self._at(due_s, is_over.set)
        await is_over.wait()

    @contextlib.asynccontextmanager
    async def timeout(self, delay_s: float | None) -> AsyncIterator[None]:
        is_over = False

        def end(block: asyncio.Timeout) -> None:
            if not is_over:
                block.reschedule(asyncio.get_running_loop().time())

        try:
            async with asyncio.timeout(None) as block:
                if delay_s is not None and delay_s <= 0:
                    end(block)
                elif delay_s is not None:
                    self._at(self._now_s + delay_s, functools.partial(end, block))
                yield
        finally:
            is_over = True

    def _at(self, due_s: float, wake: Callable[[], None]) -> None:
        heapq.heappush(self._due, (due_s, next(self._numbers), wake))

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass, and everybody who wakes meanwhile act at his time."""
        end_s = self._now_s + delay_s
        await self.settle()
        while self._due and self._due[0][0] <= end_s:
            due_s, _, wake = heapq.heappop(self._due)
            self._now_s = max(self._now_s, due_s)
            wake()
            await self.settle()
        self._now_s = end_s

    async def until(self, condition: Callable[[], bool], *, step_s: float = 0.01) -> None:
        """Let time pass until `condition` holds; by steps, between which threads and I/O go on."""
        async with asyncio.timeout(waiting.DEADLINE_S):
            while not condition():
                await self.advance(step_s)
                await asyncio.sleep(0.001)

    async def settle(self) -> None:
        """Let every task run until it waits for time or for I/O."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
