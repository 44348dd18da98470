"""Keeps the agent running, as kubelet does with a DaemonSet's pod: again with a growing pause."""

import asyncio
import contextlib
import logging
import os
import random
import sys
import time
from typing import Final

from som_api.run import backoff
from som_device_plugin.local import layout

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""Kubelet's are 10 s and 5 minutes; here a person waits."""

STOP_TIMEOUT_S: Final = 20.0

_log = logging.getLogger(__name__)


class AgentPod:
    """The agent of `state_dir`. `pid` is 0 while it does not run; `ended`: how often it has."""

    def __init__(self, state_dir: layout.StateDir) -> None:
        self._state_dir = state_dir
        self._now = asyncio.Event()
        self._pauses = backoff.Backoff(
            jitter=random.Random(), first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S
        )
        self.pid = 0
        self.ended = 0

    async def run(self) -> None:
        """Run the agent until cancelled, which ends it."""
        while True:
            begun = time.monotonic()
            try:
                status = str(await self._live())
            except OSError as error:
                status = str(error)
            self.ended += 1
            if time.monotonic() - begun > LONGEST_PAUSE_S:
                self._pauses.reset()
            pause_s = self._pauses.next_s()
            _log.warning("the agent has ended (%s); it starts again in %.1f s", status, pause_s)
            self._now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._now.wait()

    def start_now(self) -> None:
        """End a pause."""
        self._now.set()

    async def _live(self) -> int:
        """One life of the agent: its exit status."""
        words = (str(self._state_dir.path), str(os.getpid()))
        with self._state_dir.agent_log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "som_device_plugin.local.agent", *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = process.pid
        try:
            return await process.wait()
        finally:
            self.pid = 0
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
