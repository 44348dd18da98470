"""Processes that elect a leader: each on a machine that a test can pause, cut off and kill.

Their API server is one Lease in plain Python. A request may take its time to get there, and the
answer to get back; what has left arrives, whoever gave up meanwhile.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fakes import object_store
from fakes.clock import FakeClock
from fakes.object_store import Place
from som_api import kube
from som_api.kube import election

PLACE = Place(election.LEASES.api_version, election.LEASES.plural, "som-system", "som-operator")


@dataclasses.dataclass(frozen=True)
class Write:
    """A write of a leader: who sent it, when, and when the server is done with it."""

    who: str
    begun_s: float
    ended_s: float


class Machine:
    """A clock of its own: it began some time ago, its wall clock jumps, and it can be paused."""

    def __init__(self, world: FakeClock, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._began_s = -chance.uniform(0, 1e6)
        self._runs = asyncio.Event()
        self._runs.set()
        self._is_dead = False
        self.is_cut_off = False

    def pause(self) -> None:
        self._runs.clear()

    def resume(self) -> None:
        if not self._is_dead:
            self._runs.set()

    def kill(self) -> None:
        """What is paused for ever does what a dead one does."""
        self._is_dead = True
        self.pause()

    def bury(self) -> None:
        """Let the test end its tasks."""
        self._is_dead = False
        self.resume()

    async def running(self) -> None:
        await self._runs.wait()

    def monotonic(self) -> float:
        return self._world.monotonic() - self._began_s

    def now(self) -> datetime.datetime:
        """Of no use."""
        days = datetime.timedelta(days=self._chance.uniform(-1000, 1000))
        return self._world.now() + days

    async def sleep(self, delay_s: float) -> None:
        await self._world.sleep(delay_s)
        await self.running()

    @contextlib.asynccontextmanager
    async def timeout(self, delay_s: float | None) -> AsyncIterator[None]:
        try:
            async with self._world.timeout(delay_s):
                yield
        finally:
            await self.running()


class Line(kube.Client):
    """A machine's way to the Lease."""

    def __init__(self, world: "World", machine: Machine) -> None:
        self._world = world
        self._machine = machine

    async def get(self, path: str, *, params: Any = None) -> kube.Json:
        return await self._ask("get", self._world.get)

    async def create(self, path: str, body: kube.Json) -> kube.Json:
        return await self._ask("create", lambda: self._world.create(body))

    async def json_patch(self, path: str, operations: list[kube.Json]) -> kube.Json:
        return await self._ask("patch", lambda: self._world.patch(operations))

    async def _ask(self, verb: str, act: Callable[[], kube.Json]) -> kube.Json:
        await self._machine.running()
        if self._machine.is_cut_off:
            await self._machine.sleep(self._world.chance.choice((0, 100)))
            raise refusal(0, "NoAnswer")
        self._world.requests.append(verb)
        if self._world.refuses:
            raise refusal(503, "ServiceUnavailable")
        there_s, back_s = self._world.delay_s(), self._world.delay_s()

        async def serve() -> kube.Json:
            await self._world.clock.sleep(there_s)
            return act()

        answer = await asyncio.shield(self._world.kept(serve()))
        await self._machine.sleep(back_s)
        return answer


class World:
    """All of it. `writes` are those of the leaders' work, in the order in which they began."""

    def __init__(self, *, seed: int = 0) -> None:
        self.clock = FakeClock()
        self.chance = random.Random(seed)
        self.store = object_store.ObjectStore()
        self.processes: list[Process] = []
        self.requests: list[str] = []
        self.writes: list[Write] = []
        self.slow = False
        self.refuses = False
        self._under_way: set[asyncio.Task[kube.Json]] = set()
        self.store.put(PLACE, {"metadata": {}})

    def start(self) -> "Process":
        """A new process, on a machine of its own."""
        process = Process(self, f"p{len(self.processes)}")
        self.processes.append(process)
        return process

    @property
    def leaders(self) -> "list[Process]":
        return [process for process in self.processes if process.election.is_leader]

    async def end(self) -> None:
        for process in self.processes:
            process.machine.bury()
            process.task.cancel()
        tasks = [process.task for process in self.processes]
        ending = asyncio.gather(*tasks, *self._under_way, return_exceptions=True)
        while not ending.done():
            await self.clock.advance(1)
        # Else each failure of a task is told as never retrieved.
        await ending

    def delay_s(self) -> float:
        return self.chance.choice((0, 0.1, 0.1, 0.5, 2.9, 6, 20)) if self.slow else 0.001

    def kept(self, serving: Coroutine[Any, Any, kube.Json]) -> "asyncio.Task[kube.Json]":
        task = asyncio.create_task(serving)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def get(self) -> kube.Json:
        lease = self.store.get(PLACE)
        if lease is None:
            raise refusal(404, "NotFound")
        return lease

    def create(self, body: kube.Json) -> kube.Json:
        if self.store.get(PLACE):
            raise refusal(409, "AlreadyExists")
        return self.store.put(PLACE, body)

    def patch(self, operations: list[kube.Json]) -> kube.Json:
        patched = object_store.json_patched(self.get(), operations)
        if patched is None:
            raise refusal(409, "Conflict")
        return self.store.put(PLACE, patched)

    def edit(self, **spec: Any) -> None:
        """Somebody edits the Lease by hand, if there is one."""
        if lease := self.store.get(PLACE):
            lease["spec"] = {**lease.get("spec", {}), **spec}
            self.store.put(PLACE, lease)

    def annotate(self) -> None:
        if lease := self.store.get(PLACE):
            lease["metadata"]["annotations"] = {"note": str(self.store.version)}
            self.store.put(PLACE, lease)

    def delete(self) -> None:
        self.store.remove(PLACE)

    @property
    def spec(self) -> kube.Json:
        found: kube.Json = self.get()["spec"]
        return found


class Process:
    """A candidate, and what it does when it leads: a write every half second."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.machine = Machine(world.clock, world.chance)
        self.election = kube.Election(
            Line(world, self.machine),
            namespace=PLACE.namespace,
            name=PLACE.name,
            identity=name,
            time=self.machine,
            jitter=random.Random(name),
        )
        self._world = world
        self.dies = asyncio.Event()
        self.task = asyncio.create_task(self.election.run(self._work))

    async def _work(self) -> None:
        world = self._world
        while not self.dies.is_set():
            takes_s = world.chance.uniform(0, 6) if world.slow else 0.1
            with (
                contextlib.suppress(kube.NotLeader),
                self.election.fence.writing("write") as limit_s,
            ):
                begun_s, takes_s = world.clock.monotonic(), min(takes_s, limit_s)
                world.writes.append(Write(self.name, begun_s, begun_s + takes_s))
                await self.machine.sleep(takes_s)
            await self.machine.sleep(0.5)
        raise RuntimeError("the work is broken")


def refusal(status: int, reason: str) -> kube.KubeError:
    return kube.KubeError("a request", status=status, reason=reason, message="no")
