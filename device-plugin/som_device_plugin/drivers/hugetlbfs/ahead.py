"""One worker ahead: it has been started before a container waits for it.

Starting an interpreter takes longer than zeroing a small lease.
"""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Sequence
from typing import Final

from som_device_plugin.drivers.hugetlbfs import worker

CLOSE_WITHIN_S: Final = 5.0
REFILL_AFTER_S: Final = 0.1
"""The next worker starts when the container that waited for the last one is on its way."""


class Workers:
    """Hands out workers that build, started ahead where there was time for it.

    They write to the files `leaving` (see `cgroups.Hierarchy`) as they start.
    """

    def __init__(self, leaving: Sequence[str]) -> None:
        self._leaving = leaving
        self._process: asyncio.subprocess.Process | None = None
        self._refill: asyncio.Task[None] | None = None

    async def build(self, arguments: Sequence[str]) -> asyncio.subprocess.Process:
        """A worker that builds with `arguments` (see `worker`); its stdout and stderr are piped.

        It ends before it takes anything when the agent dies first: its stdin ends then.
        """
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            process = await self._spawn()
        assert process.stdin
        process.stdin.write(json.dumps(arguments).encode() + b"\n")
        return process

    def refill(self) -> None:
        """Start the next worker soon, unless one waits."""
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._start())

    async def _start(self) -> None:
        await asyncio.sleep(REFILL_AFTER_S)
        # Who builds next tries again, and says what is wrong.
        with contextlib.suppress(OSError):
            if self._process is None:
                self._process = await self._spawn()

    async def close(self) -> None:
        """End the worker that waits."""
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.wait([self._refill])
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            # One that the kernel does not let go is ended by the next agent.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self._process.wait()
            self._process = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *worker.command("build", *self._leaving),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
