"""Steps of a source: in a thread, one at a time, each to its end."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from som_api import SomError

_T = TypeVar("_T")


class SourceError(SomError):
    """The node as it is, or its kernel, refuses; nothing was taken by the failed step."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Turn:
    """Who waits for the kernel or a lock holds one thread, and not all that the agent has."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def take(self, call: Callable[..., _T], *arguments: object) -> _T:
        """What `call` returns. The turn ends with the thread, also when nobody waits any more.

        Raises:
            SourceError: in the place of an OSError.
        """
        await self._turn.acquire()
        turn = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
        turn.add_done_callback(lambda _: self._turn.release())
        try:
            return await asyncio.shield(turn)
        except OSError as error:
            raise SourceError(str(error)) from error
