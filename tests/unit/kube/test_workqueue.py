import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from fakes.clock import FakeClock
from som_api import kube
from som_api.run import heartbeats, workqueue
from waiting import until


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still until the test moves it."""
    return FakeClock()


@contextlib.asynccontextmanager
async def running(
    reconcile: workqueue.Reconcile[str], clock: FakeClock, *, workers: int = 1
) -> AsyncIterator[workqueue.WorkQueue[str]]:
    queue = workqueue.WorkQueue[str](time=clock, jitter=random.Random(0))
    task = asyncio.create_task(queue.run(reconcile, workers=workers))
    await clock.settle()
    try:
        yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Reconciler:
    """Notes when which key was worked on; holds each until `gate` opens; fails if told to."""

    def __init__(self, clock: FakeClock, *, failing: bool = False, again_s: float | None = None):
        self.calls: list[tuple[float, str]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = failing
        self._again_s = again_s
        self._clock = clock

    @property
    def keys(self) -> list[str]:
        return [key for _, key in self.calls]

    async def __call__(self, key: str) -> float | None:
        self.calls.append((self._clock.monotonic(), key))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if self.failing:
            raise kube.KubeError("test", status=500, reason="InternalError", message="no")
        return self._again_s


async def test_a_key_that_waits_is_worked_on_once(clock: FakeClock) -> None:
    reconcile = Reconciler(clock)
    queue = workqueue.WorkQueue[str](time=clock)
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    task = asyncio.create_task(queue.run(reconcile))
    await clock.settle()
    task.cancel()
    assert reconcile.keys == ["a", "b"]


async def test_a_key_that_changes_while_worked_on_is_worked_on_again_and_never_twice_at_once(
    clock: FakeClock,
) -> None:
    reconcile = Reconciler(clock)
    reconcile.gate.clear()
    async with running(reconcile, clock, workers=4) as queue:
        for _ in range(3):
            queue.add("a")
            await clock.settle()
        assert reconcile.keys == ["a"]
        reconcile.gate.set()
        await clock.settle()
    assert reconcile.keys == ["a", "a"]
    assert reconcile.most_at_once == 1


async def test_workers_are_bounded(clock: FakeClock) -> None:
    reconcile = Reconciler(clock)
    reconcile.gate.clear()
    async with running(reconcile, clock, workers=3) as queue:
        for key in range(10):
            queue.add(str(key))
        await clock.settle()
        assert reconcile.at_once == 3
        reconcile.gate.set()
        await clock.settle()
    assert len(reconcile.calls) == 10


async def test_a_failed_key_comes_back_after_pauses_that_double(clock: FakeClock) -> None:
    reconcile = Reconciler(clock, failing=True)
    async with running(reconcile, clock) as queue:
        queue.add("a")
        await clock.advance(3600)
    times_s = [time_s for time_s, _ in reconcile.calls]
    pauses_s = [after - before for before, after in itertools.pairwise(times_s)]
    for number, pause_s in enumerate(pauses_s):
        ceiling_s = min(workqueue.LONGEST_RETRY_S, workqueue.FIRST_RETRY_S * 2**number)
        assert ceiling_s / 2 <= pause_s <= ceiling_s
    assert len(pauses_s) > 12


async def test_success_forgets_the_failures(clock: FakeClock) -> None:
    reconcile = Reconciler(clock, failing=True)
    async with running(reconcile, clock) as queue:
        queue.add("a")
        await clock.advance(100)
        reconcile.failing = False
        await clock.advance(100)
        reconcile.failing = True
        reconcile.calls.clear()
        queue.add("a")
        await clock.advance(1)
    assert len(reconcile.calls) == 2


async def test_failed_keys_of_a_large_fleet_come_back_at_a_bounded_rate(clock: FakeClock) -> None:
    reconcile = Reconciler(clock, failing=True)
    async with running(reconcile, clock, workers=5) as queue:
        for key in range(500):
            queue.add(str(key))
        await clock.advance(0)
        while len(reconcile.calls) < 500:
            await clock.settle()
        await clock.advance(20)
    retries = len(reconcile.calls) - 500
    assert 0.9 * 20 <= retries / workqueue.RETRIES_PER_S <= 20


async def test_a_mistake_in_one_key_does_not_stop_the_others(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    done = []

    async def reconcile(key: str) -> None:
        if key == "bad":
            raise ZeroDivisionError
        done.append(key)

    async with running(reconcile, clock) as queue:
        queue.add("bad")
        queue.add("good")
        await clock.settle()
    assert done == ["good"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_key_comes_back_when_its_reconciler_asked_for_it(clock: FakeClock) -> None:
    reconcile = Reconciler(clock, again_s=30)
    async with running(reconcile, clock) as queue:
        queue.add("a")
        await clock.advance(100)
    assert [time_s for time_s, _ in reconcile.calls] == [0, 30, 60, 90]


async def test_the_earliest_of_several_delays_counts(clock: FakeClock) -> None:
    reconcile = Reconciler(clock)
    async with running(reconcile, clock) as queue:
        queue.add_after("a", 50)
        queue.add_after("a", 10)
        queue.add_after("a", 20)
        await clock.advance(100)
    assert reconcile.calls == [(10, "a")]


async def test_delays_asked_for_before_the_start_are_kept(clock: FakeClock) -> None:
    reconcile = Reconciler(clock)
    queue = workqueue.WorkQueue[str](time=clock)
    queue.add_after("a", 10)
    task = asyncio.create_task(queue.run(reconcile))
    await clock.advance(10)
    task.cancel()
    assert reconcile.keys == ["a"]


async def test_cancelling_the_queue_cancels_the_work(clock: FakeClock) -> None:
    reconcile = Reconciler(clock)
    reconcile.gate.clear()
    async with running(reconcile, clock, workers=2) as queue:
        queue.add("a")
        queue.add("b")
        await clock.settle()
        assert reconcile.at_once == 2
    assert reconcile.at_once == 0


async def test_who_runs_the_queue_again_begins_with_what_was_not_done(clock: FakeClock) -> None:
    first, second = Reconciler(clock), Reconciler(clock)
    first.gate.clear()
    async with running(first, clock) as queue:
        queue.add("a")
        queue.add("b")
        queue.add_after("c", 5)
        await clock.settle()
        assert first.keys == ["a"]
    await clock.advance(100)
    assert (queue.depth, queue.age_s) == (0, 0.0)
    task = asyncio.create_task(queue.run(second))
    await clock.advance(1)
    assert sorted(second.keys) == ["a", "b", "c"]
    task.cancel()


async def test_the_event_loop_has_its_turn_between_keys_that_await_nothing() -> None:
    done: list[int] = []
    turns: list[int] = []

    async def reconcile(key: int) -> None:
        done.append(key)

    async def look() -> None:
        while len(done) < 1000:
            turns.append(len(done))
            await asyncio.sleep(0)

    queue = workqueue.WorkQueue[int]()
    for key in range(1000):
        queue.add(key)
    task = asyncio.create_task(queue.run(reconcile, workers=8))
    await look()
    task.cancel()
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 8


async def test_an_urgent_key_does_not_wait_behind_everybody_nor_make_them_wait(
    clock: FakeClock,
) -> None:
    reconcile = Reconciler(clock)
    queue = workqueue.WorkQueue[str](time=clock)
    for key in "abcdef":
        queue.add(key)
    for key in "xfyz":
        queue.add(key, urgent=True)
    task = asyncio.create_task(queue.run(reconcile))
    await until(lambda: len(reconcile.keys) == 9)
    task.cancel()
    assert reconcile.keys == ["x", "f", "y", "a", "z", "b", "c", "d", "e"]


async def test_a_key_that_becomes_urgent_while_worked_on_is_urgent_afterwards(
    clock: FakeClock,
) -> None:
    reconcile = Reconciler(clock)
    reconcile.gate.clear()
    async with running(reconcile, clock) as queue:
        for key in "abcd":
            queue.add(key)
        await clock.settle()
        queue.add("a", urgent=True)
        queue.add("a")
        reconcile.gate.set()
        await clock.settle()
    assert reconcile.keys == ["a", "a", "b", "c", "d"]


async def test_a_queue_tells_how_many_wait_for_how_long_and_how_often_it_failed(
    clock: FakeClock,
) -> None:
    reconcile = Reconciler(clock, failing=True)
    reconcile.gate.clear()
    async with running(reconcile, clock) as queue:
        queue.add("a")
        await clock.settle()
        queue.add("b")
        await clock.advance(5)
        queue.add("c", urgent=True)
        await clock.advance(5)
        assert (queue.depth, queue.age_s, queue.retries) == (2, 10, 0)
        reconcile.gate.set()
        await clock.settle()
        assert (queue.depth, queue.age_s, queue.retries) == (0, 0, 3)


async def test_a_conflict_is_tried_again_without_an_error_line(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def reconcile(key: str) -> None:
        tried.append(key)
        if len(tried) < 100:
            raise kube.KubeError("PATCH", status=409, reason="Conflict", message="changed")

    tried: list[str] = []
    async with running(reconcile, clock, workers=2) as queue:
        for key in range(99):
            queue.add(str(key))
        await until(lambda: len(tried) == 99)
        # All at once, and not ten in a second: nothing says that the server is unwell.
        await clock.advance(workqueue.FIRST_RETRY_S)
        await until(lambda: len(tried) == 198)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_reconcile_that_hangs_makes_the_process_unhealthy(clock: FakeClock) -> None:
    beats = heartbeats.Heartbeats(monotonic=clock.monotonic)
    reconcile = Reconciler(clock)
    queue = workqueue.WorkQueue[str](name="node", beats=beats, time=clock)
    task = asyncio.create_task(queue.run(reconcile))
    queue.add("done")
    await clock.settle()
    reconcile.gate.clear()
    queue.add("stuck")
    await clock.advance(400)
    assert beats.late() == "reconcile of node stuck has not come round for 400 s"
    task.cancel()
