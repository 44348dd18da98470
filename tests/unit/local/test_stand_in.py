"""The stand-in between `som local run` and the agent's own plugin, over real sockets."""

import asyncio
import contextlib
import json
import pathlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import waiting
from fakes import clock
from fakes import tickets as fake_tickets
from som_api import v1alpha1
from som_device_plugin.kubelet import plugin, turns
from som_device_plugin.linux import cgroups
from som_device_plugin.local import layout, programs
from som_device_plugin.local.stand_in import agent_pod, kubelet, limits

EDITS = {"env": ["SOM_DEVICE=/dev/som"]}
REPORT = v1alpha1.SomNodeStatus(
    pools=(
        v1alpha1.PoolStatus(
            name="demo", generation=1, unit="2Mi", capacity=2**26, allocated=0, free=0
        ),
    )
)


class NoLimits:
    """In the place of `limits.PodLimits`: a program has no process here."""

    def __init__(self, state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
        pass

    def create(self, pod: programs.Program) -> None:
        pass

    remove = create

    def occupied(self, pod: programs.Program) -> bool:
        return False

    def joining(self, pod: programs.Program) -> str:
        return f"/cgroup/{pod.uid}"


async def own_agent(pod: agent_pod.AgentPod) -> None:
    """In the place of `AgentPod.run`: the test runs the agent itself."""
    await asyncio.Event().wait()


@pytest.fixture
def state_dir() -> Iterator[layout.StateDir]:
    """Short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="som-") as path:
        yield layout.StateDir(pathlib.Path(path))


@pytest.fixture
async def served(
    state_dir: layout.StateDir, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[layout.StateDir]:
    """A stand-in that serves, after a report of 32 units."""
    monkeypatch.setattr(limits, "PodLimits", NoLimits)
    monkeypatch.setattr(agent_pod.AgentPod, "run", own_agent)
    layout.write_atomically(state_dir.status, REPORT.model_dump_json())
    hierarchy = cgroups.Hierarchy(root=pathlib.Path("/nowhere"), version=2, others=())
    running = asyncio.create_task(kubelet.StandIn(state_dir, hierarchy).run())
    await waiting.until(state_dir.control_socket.exists)
    yield state_dir
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def agent(core: fake_tickets.FakeTickets, state_dir: layout.StateDir) -> AsyncIterator[None]:
    """The agent's plugin, which registers by itself."""
    time = clock.FakeClock()
    device_plugin = plugin.DevicePlugin(core, taking_turns=turns.Turns(time=time), time=time)
    async with fake_tickets.running(device_plugin, state_dir.device_plugins, time):
        yield


class Run:
    """What `som local run` says to the stand-in, and hears."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, state_dir: layout.StateDir, units: int) -> "Run":
        run = cls(*await asyncio.open_unix_connection(state_dir.control_socket))
        request = {"program": "db", "resource": "som.io/2Mi", "count": str(units)}
        run._writer.write(json.dumps(request).encode() + b"\n")
        return run

    async def heard(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return dict(json.loads(await self._reader.readline()))

    async def end(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_a_program_is_admitted_started_listed_and_gone_when_its_run_hangs_up(
    served: layout.StateDir,
) -> None:
    core = fake_tickets.FakeTickets([fake_tickets.device("n0-0")])
    served.cdi.mkdir()
    device = {"name": "lease-of-n0-0", "containerEdits": EDITS}
    spec = {"kind": "som.io/lease", "devices": [device]}
    (served.cdi / "lease.json").write_text(json.dumps(spec))
    # The agent comes after the program has asked.
    run = await Run.of(served, 8)
    async with agent(core, served):
        admitted, ready = await run.heard(), await run.heard()
        assert (admitted["event"], ready["event"]) == ("admitted", "ready")
        assert ready["edits"] == EDITS
        [program] = programs.read(served)
        assert (program.name, program.ticket) == (ready["pod"], "n0-0")
        assert core.started == ["n0-0"]

        other = await Run.of(served, 25)
        refused = await other.heard()
        await other.end()
        assert refused["event"] == "refused"
        assert "25 requested, 24 free of 32" in refused["message"]

        await run.end()
        await waiting.until(lambda: not programs.read(served))


async def test_a_start_waits_for_the_agent_that_comes_back(served: layout.StateDir) -> None:
    core = fake_tickets.FakeTickets([fake_tickets.device("n0-0")])
    async with agent(core, served):
        run = await Run.of(served, 8)
        assert (await run.heard())["event"] == "admitted"
        # There is no spec of its device.
        assert "unresolvable CDI devices" in (await run.heard())["message"]
    said = await run.heard()
    while "the agent has gone" not in said["message"]:
        said = await run.heard()
    assert said["event"] == "waiting"
    await run.end()
