"""What each of the agent's programs does first and last: logs, signals, exit status."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from som_api import SomError, logs, reasons

_log = logging.getLogger(__name__)


def main(name: str, body: Callable[[], Awaitable[None]], *, log_level: str = "info") -> None:
    """Run `body` until it ends or SIGTERM or SIGINT tells it to: exit 0 then, 1 on failure."""
    # What it makes is root's alone; a file for others gets its mode by name.
    os.umask(0o077)
    logs.configure(level=log_level)
    try:
        asyncio.run(_until_told(body))
    except (asyncio.CancelledError, KeyboardInterrupt):
        _log.info("told to stop; leases stay as they are")
    except (SomError, BaseExceptionGroup) as failure:
        sys.exit("\n".join(f"{name}: {error}" for error in reasons(failure)))


async def _until_told(body: Callable[[], Awaitable[None]]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await body()
