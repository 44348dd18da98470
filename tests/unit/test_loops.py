"""Loops of the agent: nothing that goes wrong in a round ends one, and one that hangs is known."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import prometheus_client
import pytest

from fakes.clock import FakeClock
from som_api import SomError
from som_device_plugin import loops
from waiting import until


def failures(place: str) -> float:
    name = "som_agent_failures_total"
    return prometheus_client.REGISTRY.get_sample_value(name, {"place": place}) or 0.0


async def run(once: Callable[[], Awaitable[None]], *, until_: Callable[[], bool]) -> None:
    running = asyncio.create_task(loops.repeat("test", once, time=FakeClock(runs_ahead=True)))
    await until(until_)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def cancelled_by_nobody() -> None:
    """As gRPC's calls are when their channel is closed."""
    raise asyncio.CancelledError


async def recursing() -> None:
    await recursing()


@pytest.mark.parametrize("poison", [cancelled_by_nobody, recursing])
async def test_a_loop_goes_on_whatever_a_round_raises(
    poison: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    rounds = 0
    before = failures("test")

    async def once() -> None:
        nonlocal rounds
        rounds += 1
        await (poison() if rounds < 3 else asyncio.sleep(0))

    await run(once, until_=lambda: rounds > 4)
    assert failures("test") == before + 2
    assert poison.__name__ in caplog.text, "its place is in the log"


async def test_a_failure_with_a_cure_is_logged_as_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def once() -> None:
        raise SomError("reading x: no; mount it")

    before = failures("test")
    await run(once, until_=lambda: failures("test") > before + 2)
    record = caplog.records[0]
    assert (record.levelno, record.exc_info) == (logging.ERROR, None)
    assert vars(record)["error"] == "reading x: no; mount it"


async def test_a_loop_that_hangs_is_late_and_one_that_waits_for_work_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr(loops.BEATS, "_monotonic", lambda: now_s)
    work, hangs = asyncio.Event(), asyncio.Event()

    async def once() -> None:
        await loops.wait(work, at_most_s=None)
        await hangs.wait()

    running = asyncio.create_task(loops.repeat("test", once))
    await asyncio.sleep(0)
    now_s += 1000
    assert loops.BEATS.late() == ""
    work.set()
    await until(lambda: "test" in loops.BEATS._beats)
    now_s += 1000
    assert loops.BEATS.late() == "test has not come round for 1000 s"
    running.cancel()
    await asyncio.wait([running])
    assert loops.BEATS.late() == "", "one that was told to end is not missed"


async def test_failures_keep_a_growing_distance_until_a_round_went_well_for_a_while() -> None:
    clock = FakeClock(runs_ahead=True)
    rounds = iter([*(0.0,) * 7, 60.0, None])

    async def once() -> None:
        if (takes_s := next(rounds)) is None:
            return
        if takes_s:
            await clock.sleep(takes_s)
        raise SomError("no")

    await loops.until_done("test", once, time=clock)
    *pauses, _, last = clock.sleeps
    longest = [1, 2, 4, 8, 16, 30, 30]
    assert all(most / 2 <= s <= most for s, most in zip(pauses, longest, strict=True))
    assert last <= 1


async def test_what_has_to_succeed_once_is_tried_until_it_does() -> None:
    tries = iter([SomError("the store is locked"), OSError("disk"), None])

    async def once() -> None:
        if error := next(tries):
            raise error

    await loops.until_done("test", once, time=FakeClock(runs_ahead=True))
    assert next(tries, "used up") == "used up"
    assert loops.BEATS.late() == "" and "test" not in loops.BEATS._beats
