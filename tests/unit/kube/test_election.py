"""Who leads, and that nobody else writes meanwhile."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import hypothesis
import pytest
from hypothesis import strategies as st

from som_api.kube import election
from unit.kube.electors import Process, World

PERIOD_S = election.RETRY_S * (1 + election.JITTER)


@contextlib.asynccontextmanager
async def world(seed: int = 0) -> AsyncIterator[World]:
    """A Lease that is new."""
    created = World(seed=seed)
    try:
        yield created
    finally:
        await created.end()


async def leader_and_follower(w: World) -> tuple[Process, Process]:
    """The first leads, and the second has just begun."""
    first = w.start()
    await w.clock.advance(1)
    return first, w.start()


async def test_a_new_lease_is_taken_at_once_and_kept() -> None:
    async with world() as w:
        first = w.start()
        await w.clock.advance(1)
        assert w.leaders == [first]
        spec = w.spec
        assert spec["holderIdentity"] == "p0"
        assert spec["leaseDurationSeconds"] == 12
        second = w.start()
        await w.clock.advance(60)
        assert w.leaders == [first]
        assert {write.who for write in w.writes} == {"p0"}
        assert w.spec["acquireTime"] == spec["acquireTime"]
        assert not second.election.changes


async def test_a_follower_reads_the_lease_now_and_then_and_asks_nothing_else() -> None:
    async with world() as w:
        await leader_and_follower(w)
        w.requests.clear()
        await w.clock.advance(60)
        assert set(w.requests) == {"get", "patch"}
        for verb in ("get", "patch"):
            assert 25 <= w.requests.count(verb) <= 38


async def test_a_leader_that_is_gone_is_followed_in_time() -> None:
    async with world() as w:
        first, second = await leader_and_follower(w)
        await w.clock.advance(20)
        first.machine.pause()
        await w.clock.advance(election.DURATION_S - PERIOD_S - 0.1)
        assert not second.election.changes
        await w.clock.advance(2 * PERIOD_S + 0.2)
        assert w.leaders == [second]
        assert w.spec["leaseTransitions"] == 2
        first.machine.resume()
        await w.clock.advance(5)
        assert w.leaders == [second]
        assert first.election.changes == 2


async def test_a_leader_that_is_told_to_stop_is_followed_at_once() -> None:
    async with world() as w:
        first, second = await leader_and_follower(w)
        await w.clock.advance(5)
        first.task.cancel()
        await w.clock.advance(PERIOD_S + 0.2)
        assert w.leaders == [second]
        with pytest.raises(asyncio.CancelledError):
            await first.task


async def test_a_leader_whose_work_dies_gives_up() -> None:
    async with world() as w:
        first, second = await leader_and_follower(w)
        await w.clock.advance(5)
        first.dies.set()
        await w.clock.advance(1 + PERIOD_S)
        assert w.leaders == [second]
        with pytest.raises(RuntimeError, match="broken"):
            await first.task


async def test_work_that_is_cancelled_by_its_own_fault_is_no_leader_either() -> None:
    async with world() as w:
        first = w.start()

        async def work() -> None:
            raise asyncio.CancelledError

        first.task.cancel()
        await w.clock.advance(1)
        task = asyncio.create_task(first.election.run(work))
        await w.clock.advance(1)
        with pytest.raises(election.LeaderDied):
            await task
        assert "holderIdentity" not in w.spec


async def test_a_leader_that_is_cut_off_stops_before_another_one_leads() -> None:
    async with world() as w:
        first, second = await leader_and_follower(w)
        await w.clock.advance(5)
        first.machine.is_cut_off = True
        await w.clock.advance(election.RENEW_WITHIN_S)
        assert w.leaders == []
        await w.clock.advance(election.DURATION_S - election.RENEW_WITHIN_S + PERIOD_S)
        assert w.leaders == [second]
        _assert_never_two(w)


async def test_a_server_that_is_away_for_long_has_the_same_leader_again_at_once() -> None:
    async with world() as w:
        first = w.start()
        await w.clock.advance(1)
        first.machine.is_cut_off = True
        await w.clock.advance(300)
        assert w.leaders == []
        first.machine.is_cut_off = False
        await w.clock.advance(election.LONGEST_RETRY_S + election.ATTEMPT_S + 0.1)
        assert w.leaders == [first]


async def test_a_server_that_refuses_is_not_asked_all_the_time() -> None:
    async with world() as w:
        w.start()
        w.refuses = True
        await w.clock.advance(300)
        w.requests.clear()
        await w.clock.advance(30)
        assert 3 <= len(w.requests) <= 10


@pytest.mark.parametrize("deed", ["annotate", "clear", "delete"])
async def test_whatever_somebody_does_to_the_lease_the_leader_stays(deed: str) -> None:
    async with world() as w:
        first, _ = await leader_and_follower(w)
        await w.clock.advance(5)
        if deed == "clear":
            w.edit(holderIdentity=None)
        else:
            getattr(w, deed)()
        w.start()
        await w.clock.advance(30)
        assert w.leaders == [first]
        assert first.election.changes == 1


async def test_who_is_named_in_the_lease_by_hand_does_not_lead_and_somebody_does_again() -> None:
    async with world() as w:
        await leader_and_follower(w)
        await w.clock.advance(5)
        w.edit(holderIdentity="somebody")
        await w.clock.advance(PERIOD_S + 0.1)
        assert w.leaders == []
        await w.clock.advance(election.DURATION_S + PERIOD_S)
        assert len(w.leaders) == 1


@pytest.mark.parametrize(("told_s", "waits_s"), [(30, 30), (1, 12), (10**6, 60)])
async def test_a_leader_of_another_release_is_given_the_time_that_it_needs(
    told_s: int, waits_s: float
) -> None:
    async with world() as w:
        w.edit(holderIdentity="other", leaseDurationSeconds=told_s)
        w.start()
        await w.clock.advance(waits_s - 0.1)
        assert w.leaders == []
        await w.clock.advance(0.2)
        assert len(w.leaders) == 1


OPERATIONS = ("pause", "resume", "cut off", "reconnect", "kill", "stop")
EDITS = ("annotate", "clear", "delete")


# A life is minutes of several processes.
@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 3)
# Who sleeps between two deletions has seen one alone.
@hypothesis.example(
    seed=0, count=2, steps=[(1.0, "delete", 0), (9.0, "pause", 0), (14.0, "delete", 0)]
)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    count=st.integers(2, 3),
    steps=st.lists(
        st.tuples(
            st.sampled_from((0.3, 1.0, 4.0, 9.0, 14.0)),
            st.sampled_from(OPERATIONS + EDITS),
            st.integers(0, 2),
        ),
        max_size=10,
    ),
)
def test_never_do_two_write_and_always_does_somebody_lead_in_the_end(
    seed: int, count: int, steps: list[tuple[float, str, int]]
) -> None:
    asyncio.run(_lives(seed, count, steps))


async def _lives(seed: int, count: int, steps: list[tuple[float, str, int]]) -> None:
    async with world(seed) as w:
        w.slow = True
        for _ in range(count):
            w.start()
        for pause_s, deed, number in steps:
            await w.clock.advance(pause_s)
            _do(w, deed, w.processes[-1 - number % count])
        for process in w.processes:
            process.machine.is_cut_off = False
            process.machine.resume()
        w.slow = False
        # What is under way takes 20 s at most.
        longest_s = 2 * (election.LONGEST_RETRY_S + election.ATTEMPT_S)
        await w.clock.advance(20 + election.DURATION_S + longest_s)
        written = len(w.writes)
        await w.clock.advance(3)
        assert len(w.leaders) == 1
        assert {write.who for write in w.writes[written:]} == {w.leaders[0].name}
        _assert_never_two(w)


def _do(w: World, deed: str, process: Process) -> None:
    match deed:
        case "pause":
            process.machine.pause()
        case "resume":
            process.machine.resume()
        case "cut off":
            process.machine.is_cut_off = True
        case "reconnect":
            process.machine.is_cut_off = False
        case "kill":
            process.machine.kill()
            w.start()
        case "stop":
            process.task.cancel()
            w.start()
        case "clear":
            w.edit(holderIdentity=None)
        case _:
            getattr(w, deed)()


def _assert_never_two(w: World) -> None:
    """The server is done with the last write of a leader before the first of the next begins."""
    for before, after in itertools.pairwise(w.writes):
        assert before.who == after.who or before.ended_s <= after.begun_s, (before, after)
