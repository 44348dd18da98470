"""A clock that a test owns."""

import asyncio
import datetime
import heapq
import itertools

TURNS = 20


class FakeClock:
    """Stands still until `advance`; with `runs_ahead`, every sleep is over at once.

    `sleeps` holds the duration of each sleep, in the order in which they began.
    """

    def __init__(self, *, runs_ahead: bool = False) -> None:
        self.sleeps: list[float] = []
        self._runs_ahead = runs_ahead
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self._now_s

    def now(self) -> datetime.datetime:
        start = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
        return start + datetime.timedelta(seconds=self._now_s)

    async def sleep(self, delay_s: float) -> None:
        self.sleeps.append(delay_s)
        due_s = self._now_s + delay_s
        if self._runs_ahead:
            await asyncio.sleep(0)
            self._now_s = max(self._now_s, due_s)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (due_s, next(self._numbers), future))
        await future

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass, and everybody who wakes meanwhile act at his time."""
        end_s = self._now_s + delay_s
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            due_s, _, future = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, due_s)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self._now_s = end_s

    async def settle(self) -> None:
        """Let every task run until it waits for time or for I/O."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
