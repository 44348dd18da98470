"""The agent's loops: what goes wrong in a round is logged with its place, counted, tried again.

What a stranger can write costs one round of one loop, never the agent. Which loop hangs is known
to `BEATS`: /healthz says it, and kubelet starts the agent again.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import prometheus_client

from som_api import SomError
from som_api.run import heartbeats

log = logging.getLogger(__name__)

BACKOFF_S: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Waits between rounds that fail one after the other."""

BEATS: Final = heartbeats.Heartbeats()

FAILURES: Final = prometheus_client.Counter(
    "som_agent_failures", "Rounds, calls and steps that failed, by their place", ["place"]
)

_loop: Final = contextvars.ContextVar("loop", default="")


async def repeat(name: str, once: Callable[[], Awaitable[None]]) -> NoReturn:
    """Call `once` again and again, with back-off after a failure; returns only by cancellation."""
    while True:
        await until_done(name, once)


async def until_done(name: str, call: Callable[[], Awaitable[None]]) -> None:
    """Returns when `call` has succeeded once; back-off after each failure."""
    before = _loop.set(name)
    failures = 0
    try:
        while True:
            beat()
            begun_s = time.monotonic()
            try:
                await call()
            except (Exception, asyncio.CancelledError) as error:
                if _is_told_to_end(error):
                    raise
                failed(name, error)
            else:
                return
            if time.monotonic() - begun_s > BACKOFF_S[-1]:
                failures = 0
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1
    finally:
        rest()
        _loop.reset(before)


def _is_told_to_end(error: BaseException) -> bool:
    """gRPC raises CancelledError also for a call that was cancelled by nobody."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


def failed(place: str, error: BaseException, **extra: object) -> None:
    """Log and count a failure that is tried again; one that nobody foresaw with its traceback."""
    FAILURES.labels(place=place).inc()
    foreseen = isinstance(error, SomError)
    log.error(
        "%s failed, retrying",
        place,
        extra={"error": str(error) if foreseen else repr(error), **extra},
        exc_info=None if foreseen else error,
    )


def beat() -> None:
    """The loop that runs this came round, or got on with a long step."""
    if name := _loop.get():
        BEATS.beat(name)


def rest() -> None:
    """The loop that runs this waits for work that may never come."""
    if name := _loop.get():
        BEATS.rest(name)


async def wait(event: asyncio.Event, *, at_most_s: float | None) -> None:
    """Returns when `event` is set, or after so many seconds; nobody expects a beat meanwhile."""
    rest()
    # wait_for of Python 3.11 swallows a cancellation that comes with its result.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()
    beat()
