"""Pools beside strangers, neighbours and containers that move their pages."""

import contextlib
import pathlib
import time
from collections.abc import Iterator
from concurrent import futures

import pytest

from fakes.huge_pages import PAGE, Killed
from som_device_plugin.linux import flocks
from som_device_plugin.sources.hugetlb import counters
from unit.sources import machines


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[machines.Machine]:
    """Two NUMA nodes; strangers have 10 pages."""
    with machines.Machine(tmp_path, theirs=10).running() as running:
        yield running


@pytest.fixture
def agent(machine: machines.Machine) -> machines.Agent:
    """With a pool of 128 pages."""
    agent = machine.agent()
    agent.grow("databases", 128)
    return agent


def reasons(agent: machines.Agent) -> list[str]:
    return [event.reason for event in agent.check()]


def test_a_container_that_moves_its_pages_changes_shares_and_nothing_else(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.writes.clear()
    for moved in (1, 40, 23):
        machine.kernel.move(0, 1, moved)
        assert agent.check() == []

    assert machine.kernel.writes == []
    assert agent.records.pages("databases") == {0: 0, 1: 128}
    assert agent.strangers == 10
    agent.release("databases")
    assert machine.kernel.total == {0: 5, 1: 5}


@pytest.mark.parametrize("deaths", [[], *([""] * writes + ["after"] for writes in range(4))])
def test_a_stranger_that_moved_a_page_leaves_none_behind_when_the_pool_goes(
    deaths: list[str], machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.use(10)
    machine.kernel.pinned = {0: 4, 1: 6}
    machine.kernel.move(0, 1, 1)
    assert agent.check() == []
    assert agent.records.ledger(PAGE).strangers == {0: 5, 1: 5}, "whose page it was nobody says"

    machine.kernel.die = deaths
    with contextlib.suppress(Killed):
        agent.release("databases")
    machine.kernel.die = []
    agent.restart()
    agent.release("databases")
    assert machine.kernel.total == {0: 4, 1: 6}
    assert machine.kernel.surplus == {0: 0, 1: 0}


def test_pages_moved_before_a_pool_grows_are_not_taken_twice(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.move(0, 1, 50)
    agent.grow("databases", 192)
    assert machine.kernel.persistent() == 10 + 192
    agent.grow("databases", 16)
    assert machine.kernel.persistent() == 10 + 16
    assert agent.ours == 16


def test_moved_pages_that_a_writer_takes_away_come_back_once(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.move(0, 1, 30)
    machine.kernel.write(None, 0)
    assert reasons(agent) == ["HugePagesRewritten"]
    assert machine.kernel.persistent() == 128
    assert (agent.ours, agent.strangers) == (128, 0)
    assert agent.check() == []


@pytest.mark.parametrize("setting", [10, 3, 0, 100])
def test_a_setting_applied_again_gives_nobody_more_than_he_had(
    setting: int, machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.write(None, setting)
    assert reasons(agent) == ["HugePagesRewritten"]
    assert machine.kernel.persistent() == 128 + min(setting, 10)
    assert agent.check() == []


def test_a_setting_applied_to_one_node_is_the_strangers_still(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.write(0, 5)
    assert reasons(agent) == ["HugePagesRewritten"]
    assert machine.kernel.total == {0: 69, 1: 69}
    assert (agent.strangers, agent.ledger.setting) == (10, 10)


def test_the_setting_applied_again_is_known_by_the_next_agent_too(tmp_path: pathlib.Path) -> None:
    with machines.Machine(tmp_path, theirs=200).running() as machine:
        agent = machine.agent()
        agent.grow("databases", 128)
        machine.kernel.write(0, machine.kernel.persistent(0) + 7)
        assert agent.check() == []
        agent.restart()
        machine.kernel.write(None, 200)

        assert reasons(agent) == ["HugePagesRewritten"]
        assert (machine.kernel.persistent(), agent.strangers) == (328, 200)


def test_a_lower_setting_is_known_when_it_is_applied_once_more(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.write(None, 128 + 200)
    agent.check()
    machine.kernel.use(180)
    machine.kernel.write(None, 190)
    assert reasons(agent) == ["HugePagesRewritten"]
    machine.kernel.use(-180)
    machine.kernel.write(None, 190)
    assert reasons(agent) == ["HugePagesRewritten"]
    assert (machine.kernel.persistent(), agent.strangers) == (128 + 190, 190)


@pytest.mark.parametrize("in_use", [0, 10])
def test_who_restores_after_a_rewriting_restores_the_neighbours_pages_too(
    in_use: int, machine: machines.Machine
) -> None:
    ours, neighbour = machine.agent(), machine.agent()
    ours.grow("a", 53)
    neighbour.grow("b", 61)
    machine.kernel.use(in_use)
    machine.kernel.write(None, 10)
    assert reasons(ours) == ["HugePagesRewritten"]
    assert (ours.hold, machine.kernel.persistent()) == (53, 10 + 53 + 61)
    assert neighbour.check() == ours.check() == []
    assert (ours.strangers, neighbour.strangers) == (10, 10)


def test_strangers_who_take_their_own_away_are_believed_and_it_is_told(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.write(0, machine.kernel.persistent(0) - 4)
    assert reasons(agent) == ["HugePagesTakenAway"]
    assert (agent.strangers, machine.kernel.persistent()) == (6, 134)
    assert agent.check() == []
    agent.release("databases")
    assert machine.kernel.persistent() == 6


def test_surplus_of_overcommit_is_no_sign_of_a_writer(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.overcommit = 50
    machine.kernel.total[0] += 20
    machine.kernel.surplus[0] += 20
    machine.kernel.use(20)
    assert reasons(agent) == ["HugePagesOvercommit"]
    machine.kernel.write(1, machine.kernel.persistent(1) - 4)
    assert reasons(agent) == ["HugePagesTakenAway"]
    assert (agent.strangers, machine.kernel.persistent()) == (6, 134)


def test_adopting_surplus_pages_gives_strangers_none_of_them(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.overcommit = 50
    machine.kernel.total[1] += 40
    machine.kernel.surplus[1] += 40
    machine.kernel.use(40)
    machine.kernel.write(None, 0)
    assert reasons(agent) == ["HugePagesRewritten", "HugePagesOvercommit"]
    assert (agent.strangers, agent.ours, machine.kernel.persistent()) == (0, 128, 128)


def test_pages_with_memory_errors_are_replaced_once(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.corrupted = 2
    machine.kernel.total[0] -= 2
    assert reasons(agent) == ["HugePagesLost"]
    assert machine.kernel.persistent() == 138
    machine.kernel.write(0, machine.kernel.persistent(0) - 2)
    assert reasons(agent) == ["HugePagesTakenAway"], "the errors are made up for"


@pytest.mark.parametrize("first", [0, 1])
def test_two_agents_of_one_machine_leave_nothing_whoever_goes_first(
    first: int, machine: machines.Machine
) -> None:
    agents = [machine.agent(), machine.agent()]
    for agent in agents:
        agent.grow("examples", 64)
    for agent in (agents[first], agents[1 - first]):
        agent.release("examples")
        assert [each.check() for each in agents] == [[], []]
    assert machine.kernel.total == {0: 5, 1: 5}


def test_a_pool_of_a_neighbour_is_not_mistaken_for_strangers(machine: machines.Machine) -> None:
    ours, neighbour = machine.agent(), machine.agent()
    ours.grow("a", 10)
    neighbour.grow("b", 10)
    machine.kernel.write(None, 0)
    for agent in (ours, neighbour, ours, neighbour):
        agent.check()
        assert machine.kernel.persistent() == 20
    assert (ours.strangers, neighbour.strangers) == (0, 0)


def test_pages_that_a_stranger_added_to_an_interrupted_growth_are_told_of(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    machine.kernel.spare = 5
    machine.kernel.die = ["after"]
    with pytest.raises(Killed):
        agent.grow("databases", 160)
    machine.kernel.spare = 100
    machine.kernel.write(0, machine.kernel.persistent(0) + 3)

    agent.restart()
    (event,) = agent.check()
    assert event.reason == "HugePagesCounted"
    assert "8 that it may have added are counted as som's" in event.message
    assert agent.check() == []


def test_who_has_the_counters_is_named_and_not_waited_for(
    machine: machines.Machine, agent: machines.Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "LOCK_TIMEOUT_S", 0.0)
    other = machine.agent()
    named = pytest.raises(flocks.LockHeld, match=r"because pid \d+ \(\w+\) has it locked")
    with agent.counters.locked(), named:
        other.check()
    assert agent.check() == []


def test_agents_without_pools_that_make_and_remove_the_lock_still_take_turns(
    machine: machines.Machine,
) -> None:
    agents = [machine.agent() for _ in range(3)]
    inside: list[machines.Agent] = []

    def turns(agent: machines.Agent) -> None:
        for _ in range(50):
            with agent.counters.locked():
                inside.append(agent)
                time.sleep(0)
                assert inside == [agent]
                inside.clear()

    with futures.ThreadPoolExecutor() as executor:
        list(executor.map(turns, agents))
    assert not (machine.root / "som.lock").exists()


def test_the_lock_on_the_counters_is_roots_and_goes_with_the_last_pool(
    machine: machines.Machine, agent: machines.Agent
) -> None:
    lock = machine.root / "som.lock"
    assert lock.stat().st_mode & 0o777 == 0o700
    agent.release("databases")
    assert not lock.exists()
    assert PAGE not in agent.records.pools().values()
