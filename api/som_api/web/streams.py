"""The event streams that are open, the API's and the page's: so many, and so many of one user."""

import collections
from collections.abc import AsyncIterator
from typing import Final

from som_api.web import refusals

MOST: Final = 256
MOST_OF_ONE: Final = 16


class Streams:
    """Those of one process."""

    def __init__(self) -> None:
        self._of_user: collections.Counter[str] = collections.Counter()

    def counted(self, user: str, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """`events`, which count as a stream of `user` while they are read.

        Raises:
            Refusal: 429: too many are open.
        """
        if self._of_user[user] >= MOST_OF_ONE or self._of_user.total() >= MOST:
            raise refusals.Refusal(
                429, "too many watches are open; close one, or poll the lists", retry_after_s=10
            )
        return self._counted(user, events)

    async def _counted(self, user: str, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._of_user[user] += 1
        try:
            async for part in events:
                yield part
        finally:
            self._of_user[user] -= 1
            if not self._of_user[user]:
                del self._of_user[user]
