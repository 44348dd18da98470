"""How a test waits: for a condition, and never for ever."""

import asyncio
from collections.abc import Callable

DEADLINE_S = 60.0
"""Long, because a busy machine must not fail a test."""


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds; TimeoutError after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
