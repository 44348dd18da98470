"""What each of the agent's programs does first and last: logs, signals, exit status."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

from som_api import SomError, logs, reasons

_log = logging.getLogger(__name__)


def main(
    name: str,
    body: Callable[[], Awaitable[None]],
    *,
    log_level: str = "info",
    log_format: str = "text",
) -> None:
    """Run `body` until it ends or SIGTERM or SIGINT tells it to: exit 0 then, 1 on failure."""
    # What it makes is root's alone; a file for others gets its mode by name.
    os.umask(0o077)
    logs.configure(level=log_level, format=log_format)
    try:
        asyncio.run(_until_told(body))
    except (asyncio.CancelledError, KeyboardInterrupt):
        _log.info("told to stop; leases stay as they are")
    except (SomError, BaseExceptionGroup) as failure:
        logs.fail(name, (str(error) for error in reasons(failure)), format=log_format)


async def _until_told(body: Callable[[], Awaitable[None]]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await body()
