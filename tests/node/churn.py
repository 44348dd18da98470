"""Owners come and go at random while everything around them is killed and rewritten.

Every owner finds zeroes, and what it writes stays its own until it ends. `faults` says what was
not so. One thread does all: the seed gives the order of what happens, the machine the moments.
"""

import collections
import contextlib
import errno
import mmap
import os
import pathlib
import random
import signal
import time
from collections.abc import Iterator

from node import claims, local_node, machine
from som_device_plugin.linux import cgroups, hugepages, mountinfo

PAGE = claims.PAGE
_STEP_S = 0.03
_MOST_OWNERS = 4
_DEADLINE_S = 120


class Owner:
    """A claim, and what is expected of it next."""

    def __init__(self, claim: claims.Claim, rng: random.Random) -> None:
        self.claim = claim
        self.token = claims.token(rng)
        self.expected: collections.deque[tuple[str, ...]] = collections.deque([("zero",)])
        self.started = False
        self.may_end = False
        """Somebody has ended it."""

    def tell(self, order: str, *answers: str) -> None:
        self.expected.append(answers)
        with contextlib.suppress(BrokenPipeError):
            self.claim.tell(order)


class Churn:
    """A pool of `units` on `node`, with at most `_MOST_OWNERS` at once."""

    def __init__(self, node: local_node.LocalNode, *, seed: int, units: int, program: str) -> None:
        self._node = node
        self._rng = random.Random(seed)
        self._units = units
        self._program = program
        self._owners: list[Owner] = []
        self._grabbed: list[mmap.mmap] = []
        self._hierarchy = cgroups.find(mountinfo.read())
        self._others = {node: _persistent(node) for node in hugepages.nodes()}
        self._served = 0
        self.faults: list[str] = []
        self.count: collections.Counter[str] = collections.Counter()
        often, sometimes, seldom = 20, 4, 2
        self._actions = {
            self._come: 2 * often,
            self._check: often,
            self._leave: often,
            self._kill_owner: sometimes,
            self._punch: sometimes,
            self._truncate: sometimes,
            self._grab: often,
            self._kill_worker: sometimes,
            self._kill_agent: seldom,
            self._kill_stand_in: seldom,
            self._rewrite: seldom,
        }
        if len(self._others) > 1:
            self._actions[self._move] = often

    def run(self, seconds: float, *, served: int) -> None:
        """Order the pool, churn, and end all owners; the pool is whole again.

        It churns for `seconds`, and on until so many owners have been `served`.
        """
        whole = f"{2 * self._units}Mi"
        self._node.order(self._units * PAGE)
        self._node.start_agent()
        self._node.wait_pool(capacity=whole)
        end = time.monotonic() + seconds
        deadline = end + _DEADLINE_S
        actions, weights = list(self._actions), list(self._actions.values())
        while not self.faults and (time.monotonic() < end or self.count["served"] < served):
            if time.monotonic() > deadline:
                self._fault(f"too little life: fewer than {served} owners were served")
            self._rng.choices(actions, weights)[0]()
            self._listen()
            time.sleep(_STEP_S)
        self._finish(whole)

    def _finish(self, whole: str) -> None:
        self._release_grabbed()
        for owner in self._owners:
            if owner.started and not owner.may_end:
                owner.tell("check", "kept")
            owner.may_end = True
            owner.claim.let_end()
        machine.wait_until(self._all_gone, what="every owner has ended", deadline_s=_DEADLINE_S)
        if self.faults:
            return
        self._node.wait_pool(capacity=whole, allocated="0", free=whole)
        last = self._claim(self._units)
        found = last.answer(deadline_s=_DEADLINE_S)
        if found != f"zero {self._units * PAGE}":
            self._fault(f"the last owner of everything found {found!r}")
        last.end()

    def _all_gone(self) -> bool:
        self._listen()
        return not self._owners

    # What owners do

    def _claim(self, units: int) -> claims.Claim:
        return claims.Claim(self._node, units, program=self._program)

    def _come(self) -> None:
        if len(self._owners) < _MOST_OWNERS and self._node.admits():
            # Enough for all, and for two whose pages are still on their way back.
            units = self._rng.randint(1, self._units // (_MOST_OWNERS + 2))
            owner = Owner(self._claim(units), self._rng)
            self._owners.append(owner)
            owner.tell(f"fill {owner.token}", "filled")
            self.count["came"] += 1

    def _check(self) -> None:
        if owner := self._some():
            owner.tell("check", "kept")

    def _leave(self) -> None:
        if owner := self._some():
            owner.tell("check", "kept")
            owner.may_end = True
            owner.claim.let_end()

    def _kill_owner(self) -> None:
        if owner := self._some():
            owner.may_end = True
            owner.claim.process.send_signal(self._rng.choice([signal.SIGKILL, signal.SIGTERM]))
            self.count["owners killed"] += 1

    def _punch(self) -> None:
        if owner := self._some():
            first, pages = self._part(owner)
            owner.tell(f"punch {first} {pages}", "punched")
            self.count["punched"] += 1

    def _truncate(self) -> None:
        if owner := self._some():
            owner.tell("truncate", "truncated")
            self.count["truncated"] += 1

    def _move(self) -> None:
        if owner := self._some():
            first, pages = self._part(owner)
            owner.tell(f"move {self._rng.choice(list(self._others))} {first} {pages}", "moved")
            self.count["moved"] += 1

    def _some(self) -> Owner | None:
        there = [owner for owner in self._owners if owner.started and not owner.may_end]
        return self._rng.choice(there) if there else None

    def _part(self, owner: Owner) -> tuple[int, int]:
        first = self._rng.randrange(owner.claim.units)
        return first, self._rng.randint(1, owner.claim.units - first)

    def _listen(self) -> None:
        """Compare what owners say with what is expected; forget those that have ended."""
        for owner in list(self._owners):
            while (line := owner.claim.heard()) is not None:
                if line == "":
                    self._ended(owner)
                    break
                answers = owner.expected.popleft() if owner.expected else ()
                self._served += not owner.started
                self.count["served"] += not owner.started
                owner.started = True
                if line.split()[0] not in answers:
                    self._fault(f"owner of {owner.claim.units} said {line!r} and not {answers}")
        code = self._node.agent.poll() if self._node.agent else None
        if code is not None:
            self._fault(f"the agent has ended by itself ({code})")

    def _ended(self, owner: Owner) -> None:
        self._owners.remove(owner)
        code = owner.claim.end()
        if not owner.started:
            self.count["refused"] += 1
        elif not owner.may_end:
            self._fault(f"owner of {owner.claim.units} ended by itself ({code})")
        elif code == 0 and owner.expected:
            self._fault(f"owner of {owner.claim.units} never answered {owner.expected}")

    def _fault(self, text: str) -> None:
        self.faults.append(f"{text}; so far {dict(self.count)}\n{self._node.log_text()[-4000:]}")

    # What happens around them

    def _kill_agent(self) -> None:
        if not self._works_again():
            return
        self._node.kill_agent()
        time.sleep(self._rng.choice([0, 0, 0.5]))
        self._node.start_agent()
        self.count["agents killed"] += 1

    def _kill_stand_in(self) -> None:
        if not self._works_again():
            return
        self._node.stand_in.kill()
        self._node.stand_in.wait()
        self._node.start_stand_in()
        self.count["stand-ins killed"] += 1

    def _works_again(self) -> bool:
        """Owners were served since the last kill, so on a slow machine there is life between."""
        works, self._served = self._served > 2, self._served * (self._served <= 2)
        return works

    def _kill_worker(self) -> None:
        for process in _processes(self._hierarchy.som(self._node.state_dir.path)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                self.count["workers killed"] += 1

    def _grab(self) -> None:
        """A stranger reserves pages, or gives back what it has."""
        if self._grabbed and self._rng.random() < 0.5:
            self._release_grabbed()
            return
        try:
            pages = self._rng.randint(1, 8)
            self._grabbed.append(machine.huge_memory(pages))
            self.count["pages grabbed"] += pages
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise

    def _release_grabbed(self) -> None:
        while self._grabbed:
            self._grabbed.pop().close()

    def _rewrite(self) -> None:
        """Somebody applies the setting of before, who knows nothing of som."""
        if not self._works_again():
            return
        self._release_grabbed()
        node = self._rng.choice(list(self._others))
        hugepages.write_persistent(PAGE, node, self._others[node])
        self.count["counters rewritten"] += 1


def _persistent(node: int) -> int:
    return hugepages.node_counts(PAGE, node).persistent


def _processes(group: pathlib.Path) -> Iterator[int]:
    for file in group.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            yield from (int(line) for line in file.read_text().split() if line != "0")
