"""Time as a value that is handed in, so that a test owns it."""

import asyncio
import contextlib
import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """What the runtime asks of time. `SystemClock` in production, a fake one in tests."""

    def monotonic(self) -> float:
        """Seconds that never go back, for measuring durations."""

    def now(self) -> datetime.datetime:
        """The wall clock in UTC, for time stamps that people read."""

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds."""

    def timeout(self, delay_s: float | None) -> contextlib.AbstractAsyncContextManager[object]:
        """A block that ends with TimeoutError after `delay_s` seconds; None: never."""


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def timeout(self, delay_s: float | None) -> asyncio.Timeout:
        return asyncio.timeout(delay_s)
