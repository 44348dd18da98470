"""The agent's loops: what goes wrong in a round is logged with its place, counted, tried again.

What a stranger can write costs one round of one loop, never the agent. Which loop hangs is known
to `BEATS`: /healthz says it, and kubelet starts the agent again.
"""

import asyncio
import contextlib
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import prometheus_client

from som_api import SomError
from som_api.run import backoff, clock, heartbeats

log = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 30.0
"""Between rounds that fail one after the other, from one second on."""

BEATS: Final = heartbeats.Heartbeats()

FAILURES: Final = prometheus_client.Counter(
    "som_agent_failures", "Rounds, calls and steps that failed, by their place", ["place"]
)

_loop: Final = contextvars.ContextVar("loop", default="")
_SYSTEM: Final = clock.SystemClock()
_JITTER: Final = random.Random()


async def repeat(
    name: str, once: Callable[[], Awaitable[None]], *, time: clock.Clock = _SYSTEM
) -> NoReturn:
    """Call `once` again and again, with back-off after a failure; returns only by cancellation."""
    while True:
        await until_done(name, once, time=time)


async def until_done(
    name: str, call: Callable[[], Awaitable[None]], *, time: clock.Clock = _SYSTEM
) -> None:
    """Returns when `call` has succeeded once; back-off after each failure."""
    before = _loop.set(name)
    pauses = backoff.Backoff(jitter=_JITTER, first_s=1.0, longest_s=LONGEST_PAUSE_S)
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
            if time.monotonic() - begun_s > LONGEST_PAUSE_S:
                pauses.reset()
            await time.sleep(pauses.next_s())
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


async def wait(
    event: asyncio.Event, *, at_most_s: float | None, time: clock.Clock = _SYSTEM
) -> None:
    """Returns when `event` is set, or after so many seconds; nobody expects a beat meanwhile."""
    rest()
    # wait_for of Python 3.11 swallows a cancellation that comes with its result.
    with contextlib.suppress(TimeoutError):
        async with time.timeout(at_most_s):
            await event.wait()
    beat()
