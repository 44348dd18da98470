"""A thread for what a stranger can make slow: left behind after a while, and nobody needs it.

The threads of `asyncio.to_thread` are few, and the process cannot end before they have.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
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
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def tell(result: list[T], failure: BaseException | None) -> None:
            if answer.done():
                return
            if failure is None:
                answer.set_result(result[0])
            else:
                answer.set_exception(failure)

        def work() -> None:
            result: list[T] = []
            failure: BaseException | None = None
            try:
                result.append(call(*arguments, **named))
            except Exception as error:
                failure = error
            self._busy.release()
            # Left behind, it may outlive the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, result, failure)

        if not self._busy.acquire(blocking=False):
            raise TimeoutError("the call before this one has not answered yet")
        threading.Thread(target=work, name="som-expendable", daemon=True).start()
        async with asyncio.timeout(self._limit_s):
            return await answer
