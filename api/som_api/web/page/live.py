"""Server-sent events of the page: that the fleet has changed, and that the session has ended.

What changed is not said: the page asks for itself again, and is rendered with the rights of then.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from som_api.web import fleet, refusals

PAUSE_S: Final = 2.0
"""Between two events, however fast the fleet changes."""
SILENCE_S: Final = 15.0
"""After so long something is sent, so that both sides notice when the other has gone."""


async def ticks(
    changes: fleet.Changes, viewer: Callable[[], Awaitable[object]], *, seen: str = ""
) -> AsyncIterator[bytes]:
    """An event for each burst of changes, as long as `viewer` finds who looks.

    The first comes at once where the page shows another version, `seen`, than the one of now.
    """
    place = changes.place_of(seen) if seen else changes.place
    yield b"retry: 3000\n\n"
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                await changes.wait(place)
        except TimeoutError:
            yield b":\n\n"
        try:
            await viewer()
        except refusals.Refusal as refusal:
            if refusal.code == 401:
                yield b"event: ended\ndata:\n\n"
                return
        if changes.place != place:
            place = changes.place
            yield b"event: changed\ndata:\n\n"
        await asyncio.sleep(PAUSE_S)
