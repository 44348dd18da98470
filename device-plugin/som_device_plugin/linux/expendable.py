"""A thread for what a stranger can make slow: left behind after a while, and nobody needs it.

The threads of `asyncio.to_thread` are few, and the process cannot end before they have.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Thread:
    """At most one call at a time; one that was left behind refuses those after it until it ends."""

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._busy = threading.Lock()

    async def run(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What `call` answers or raises.

        Raises:
            TimeoutError: it did not answer in time, or the call before it has not yet.
        """
        answer: futures.Future[T] = futures.Future()
        # Who does not wait any longer cancels nothing.
        answer.set_running_or_notify_cancel()

        def work() -> None:
            try:
                try:
                    result = call(*arguments, **named)
                finally:
                    self._busy.release()
            except Exception as error:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        if not self._busy.acquire(blocking=False):
            raise TimeoutError("the call before this one has not answered yet")
        threading.Thread(target=work, name="som-expendable", daemon=True).start()
        async with asyncio.timeout(self._limit_s):
            return await asyncio.wrap_future(answer)
