"""Whatever happens on a machine: nobody's page is taken, none is taken twice, none stays behind.

Two agents, containers that move pages, strangers who add, take away and apply their setting again,
and an end of the agent before or after any write.
"""

import pathlib
import tempfile
from collections.abc import Callable

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from fakes.huge_pages import Killed
from unit.sources import machines

NODES = st.integers(min_value=0, max_value=2)
AGENTS = st.integers(min_value=0, max_value=1)
POOLS = st.sampled_from(["a", "b"])
PAGES = st.integers(min_value=1, max_value=60)
DEATHS: st.SearchStrategy[list[str]] = st.one_of(
    st.just([]),
    st.tuples(st.integers(min_value=0, max_value=4), st.sampled_from(["before", "after"])).map(
        lambda death: [""] * death[0] + [death[1]]
    ),
)


class Life(stateful.RuleBasedStateMachine):
    @stateful.initialize(setting=st.integers(min_value=0, max_value=80))
    def begin(self, setting: int) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.setting = setting
        self.machine = machines.Machine(pathlib.Path(self._directory.name), nodes=3, theirs=setting)
        self._running = self.machine.running()
        self._running.__enter__()
        self.agents = [self.machine.agent(), self.machine.agent()]

    def teardown(self) -> None:
        for agent in self.agents:
            for pool in list(agent.records.pools()):
                agent.release(pool)
        kernel = self.machine.kernel
        assert kernel.persistent() == self.machine.theirs, "strangers have exactly theirs"
        assert [agent.hold for agent in self.agents] == [0, 0]
        self._running.__exit__(None, None, None)
        self._directory.cleanup()

    @stateful.rule(start=NODES, end=NODES, pages=PAGES)
    def pages_move(self, start: int, end: int, pages: int) -> None:
        pages = min(pages, self.machine.kernel.persistent(start))
        self.machine.kernel.move(start, end, pages)

    @stateful.rule(agent=AGENTS, pool=POOLS, pages=PAGES, spare=st.booleans(), death=DEATHS)
    def a_pool_is_ordered(
        self, agent: int, pool: str, pages: int, spare: bool, death: list[str]
    ) -> None:
        self.machine.kernel.spare = 10**6 if spare else 20
        self.carry_out(lambda: self.agents[agent].grow(pool, pages), agent, death)
        self.machine.kernel.spare = 10**6
        self.look()

    @stateful.rule(agent=AGENTS, pool=POOLS, death=DEATHS)
    def a_pool_is_given_back(self, agent: int, pool: str, death: list[str]) -> None:
        self.carry_out(lambda: self.agents[agent].release(pool), agent, death)
        self.agents[agent].release(pool)
        self.look()

    @stateful.rule(node=NODES, pages=PAGES)
    def strangers_add(self, node: int, pages: int) -> None:
        kernel = self.machine.kernel
        kernel.write(node, kernel.persistent(node) + pages)
        self.machine.theirs += pages
        self.look()

    @stateful.rule(node=NODES, pages=PAGES)
    def strangers_take_away(self, node: int, pages: int) -> None:
        machine, kernel = self.machine, self.machine.kernel
        pages = min(pages, machine.theirs - machine.in_use, kernel.persistent(node))
        after = kernel.persistent() - pages
        # A total that is exactly the known setting is one case that nobody can tell.
        hypothesis.assume(after not in [agent.ledger.setting for agent in self.agents])
        kernel.write(node, kernel.persistent(node) - pages)
        machine.theirs -= pages
        self.look()

    @stateful.rule(agent=AGENTS, death=DEATHS)
    def the_setting_is_applied_again(self, agent: int, death: list[str]) -> None:
        """By sysctl or tuned, which count what strangers want and know nothing of som."""
        machine, kernel = self.machine, self.machine.kernel
        pools = sum(each.ours for each in self.agents)
        hypothesis.assume(self.setting < kernel.persistent())
        known = [each.ledger.setting for each in self.agents if each.ours]
        hypothesis.assume(self.setting < pools or self.setting in known)
        # An end in the middle of a restoration forgets what was the sign, and counts the
        # neighbour's pages as taken away by strangers: docs/design/0005.
        hypothesis.assume(not death or len(known) < 2)
        kernel.write(None, self.setting)
        machine.theirs = min(machine.theirs, self.setting)
        if machine.in_use > machine.theirs:
            self.strangers_use(machine.theirs)
        self.carry_out(lambda: self.agents[agent].check(), agent, death)
        self.look()

    @stateful.rule(pages=PAGES)
    def strangers_use(self, pages: int) -> None:
        pages = min(pages, self.machine.theirs)
        self.machine.kernel.use(pages - self.machine.in_use)
        self.machine.in_use = pages

    @stateful.rule(agent=AGENTS)
    def an_agent_starts_again(self, agent: int) -> None:
        self.agents[agent].restart()

    def carry_out(self, step: Callable[[], object], agent: int, death: list[str]) -> None:
        self.machine.kernel.die = death
        try:
            step()
        except Killed:
            self.agents[agent].restart()
        self.machine.kernel.die = []

    def look(self) -> None:
        """Some rounds of the cycle, the last of which finds nothing to do."""
        for _ in range(2):
            for agent in self.agents:
                agent.check()
        self.machine.kernel.writes.clear()
        for agent in self.agents:
            assert agent.check() == []
            ordered = sum(agent.ordered.values())
            assert agent.ours == ordered == agent.hold, "all that was ordered, and no more"
            if agent.ours:
                assert agent.strangers == self.machine.theirs
        assert self.machine.kernel.writes == []
        pools = sum(agent.ours for agent in self.agents)
        assert self.machine.kernel.persistent() == self.machine.theirs + pools


TestLife = Life.TestCase
TestLife.settings = hypothesis.settings(
    # Each is a life of many steps.
    max_examples=hypothesis.settings().max_examples // 3,
    stateful_step_count=20,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        # Strangers who do what nobody could tell from something else are left out.
        hypothesis.HealthCheck.filter_too_much,
    ],
)
