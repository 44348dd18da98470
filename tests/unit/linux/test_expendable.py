"""A thread that a stranger may block: nobody waits for it beyond the limit."""

import asyncio
import threading

import pytest

from som_device_plugin.linux import expendable


async def test_it_answers_and_raises_as_the_call_does() -> None:
    thread = expendable.Thread(limit_s=60)
    assert await thread.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)


async def test_a_call_that_is_stuck_is_left_behind_and_no_second_joins_it() -> None:
    stuck, ended = threading.Event(), threading.Event()

    def wait() -> None:
        stuck.wait()
        ended.set()

    thread = expendable.Thread(limit_s=0.05)
    with pytest.raises(TimeoutError):
        await thread.run(wait)
    before = threading.active_count()
    with pytest.raises(TimeoutError, match="has not answered yet"):
        await thread.run(wait)
    assert threading.active_count() == before
    # Threads that the process must wait for at its end are all free.
    await asyncio.to_thread(stuck.set)
    await asyncio.to_thread(ended.wait)
    async with asyncio.timeout(60):
        while True:
            try:
                assert await thread.run(lambda: 7) == 7
                break
            except TimeoutError:
                await asyncio.sleep(0.01)
