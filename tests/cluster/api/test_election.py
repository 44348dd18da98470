"""Two som-operators on the real API server: its audit log says who wrote what, and when.

Meanwhile an admin edits a pool of twenty nodes without a pause, so that there is always something
to write. The figures that are printed are from what happens to the leader to the next one's first
write.
"""

from __future__ import annotations

import asyncio
import base64
import collections.abc
import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import re
import signal
import sys
import time
from typing import Any

import aiohttp
import pytest

from cluster.api.conftest import MERGE, NAMESPACE, ApiServer, send
from cluster.harness.certificates import NODE_IP
from cluster.harness.errors import wait_until

NODES = [f"elect-{number}" for number in range(20)]
POOL = "/apis/som.io/v1alpha1/sompools/elect"
WITHIN_S = 30.0
"""A lease ends 12 s after its last change was seen; the rest is for a slow machine."""
RELEASED_WITHIN_S = 9.0
"""Sooner than a lease that nobody has released, however long ago it was renewed."""

# A wire that can be cut: copies bytes from a port to the API server and back. From SIGUSR1 to
# SIGUSR2 it holds back what goes to the server.
WIRE = f"""
import asyncio, signal, sys
async def copy(reader, writer, flows):
    try:
        while data := await reader.read(65536):
            await flows.wait()
            writer.write(data)
            await writer.drain()
        await flows.wait()
        await asyncio.sleep(2)
    except OSError:
        pass
    finally:
        writer.close()
async def main():
    there_flows, back_flows = asyncio.Event(), asyncio.Event()
    there_flows.set()
    back_flows.set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, there_flows.clear)
    loop.add_signal_handler(signal.SIGUSR2, there_flows.set)
    async def join(reader, writer):
        there = await asyncio.open_connection("{NODE_IP}", 443)
        await asyncio.gather(
            copy(reader, there[1], there_flows), copy(there[0], writer, back_flows)
        )
    async with await asyncio.start_server(join, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
"""
METRICS = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"


@dataclasses.dataclass(frozen=True)
class Write:
    """A write that the API server has answered; `path` as in the request."""

    who: str
    begun_s: float
    ended_s: float
    code: int
    path: str


class Replica:
    """A som-operator that reaches the API server by a wire of its own."""

    def __init__(self, api_server: ApiServer, name: str, port: int, folder: pathlib.Path) -> None:
        self.name = name
        self._namespaces = namespaces = api_server.namespaces
        self._port = port
        token = api_server.kubectl("create", "token", "som-operator", f"--namespace={NAMESPACE}")
        self.credential = _claims(token)["jti"]
        kubeconfig = folder / name
        user = f"- name: admin\n  user: {{token: {token.strip()}}}\n"
        config = re.sub(r"- name: admin\n  user: .*\n", user, namespaces.admin.read_text())
        server = f'server: "https://127.0.0.1:{port + 100}"'
        kubeconfig.write_text(re.sub(r'server: "[^"]*"', server, config))
        self._options = [f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}"]
        namespaces.start(self.wire, [sys.executable, "-c", WIRE, str(port + 100)])
        self.start()

    @property
    def wire(self) -> str:
        return f"{self.name}-wire"

    def start(self) -> None:
        program = pathlib.Path(sys.executable).parent / "som-operator"
        self._namespaces.start(
            self.name, [program, *self._options, f"--endpoint=127.0.0.1:{self._port}"]
        )

    def signal(self, name: str, *, wire: bool = False) -> None:
        pid_file = self._namespaces.state / f"{self.wire if wire else self.name}.pid"
        self._namespaces.run(["kill", f"-{name}", pid_file.read_text().strip()])
        if name == "CONT":
            # nsenter stops itself with its child, and nobody else wakes it.
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    if words[0] == b"nsenter" and os.fsencode(pid_file) in words:
                        os.kill(int(process.name), signal.SIGCONT)

    def leads(self) -> bool:
        url = f"http://127.0.0.1:{self._port}/metrics"
        done = self._namespaces.run([sys.executable, "-c", METRICS, url], check=False)
        return "som_operator_leader 1.0" in done.stdout

    def ready(self) -> bool:
        url = f"http://127.0.0.1:{self._port}/readyz"
        done = self._namespaces.run([sys.executable, "-c", METRICS, url], check=False)
        return done.returncode == 0

    def end(self) -> None:
        for name in (self.name, self.wire):
            if self._namespaces.alive(name):
                with contextlib.suppress(Exception):
                    self._namespaces.stop(name, force=True)


class Pair:
    """The two, and what they wrote."""

    def __init__(self, api_server: ApiServer, folder: pathlib.Path) -> None:
        self._audit = api_server.namespaces.logs / "audit.log"
        self.replicas = [
            Replica(api_server, f"replica-{letter}", port, folder)
            for letter, port in (("a", 7001), ("b", 7002))
        ]

    def until_one_leads(self) -> tuple[Replica, Replica]:
        """(leader, follower), both ready."""
        for replica in self.replicas:
            wait_until(f"{replica.name} to be ready", replica.ready, deadline_s=60)
        wait_until("a leader", lambda: any(r.leads() for r in self.replicas), deadline_s=60)
        first, second = self.replicas
        return (first, second) if first.leads() else (second, first)

    def writes(self, *, since_s: float) -> list[Write]:
        """The writes that were answered since a moment, but for those of the Lease itself."""
        by_credential = {f"JTI={replica.credential}": replica.name for replica in self.replicas}
        found = []
        for line in self._audit.read_text().splitlines():
            entry = _entry(line)
            extra = entry.get("user", {}).get("extra", {})
            (credential,) = extra.get("authentication.kubernetes.io/credential-id", [""])
            if (
                entry.get("verb") not in ("create", "patch", "update", "delete")
                or credential not in by_credential
                or entry["objectRef"]["resource"] == "leases"
            ):
                continue
            write = Write(
                by_credential[credential],
                _seconds(entry["requestReceivedTimestamp"]),
                _seconds(entry["stageTimestamp"]),
                entry.get("responseStatus", {}).get("code", 0),
                entry["requestURI"],
            )
            if write.ended_s >= since_s:
                found.append(write)
        return sorted(found, key=lambda write: write.ended_s)


@pytest.fixture(scope="module")
def pair(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> collections.abc.Iterator[Pair]:
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"elect": "y"}}}
        for name in NODES
    ]
    pool = {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomPool",
        "metadata": {"name": "elect"},
        "spec": {
            "nodeSelector": {"matchLabels": {"elect": "y"}},
            "unit": "2Mi",
            "capacity": "1Gi",
            "source": {"hugeTLB": {"pageSize": "2Mi"}},
        },
    }
    listed = {"apiVersion": "v1", "kind": "List", "items": [*nodes, pool]}
    api_server.kubectl("create", "--filename=-", stdin=json.dumps(listed))
    pair = Pair(api_server, tmp_path_factory.mktemp("replicas"))
    yield pair
    api_server.kubectl("delete", "node", "--selector=elect=y")
    api_server.kubectl("delete", "sompool", "elect", "--timeout=60s")
    for replica in pair.replicas:
        replica.end()


@contextlib.asynccontextmanager
async def _edits(session: aiohttp.ClientSession) -> collections.abc.AsyncIterator[None]:
    """An admin cannot make up his mind."""

    async def edit() -> None:
        for count in itertools.count(1):
            change = {"spec": {"capacity": f"{count % 50 + 1}Gi"}}
            await send(session, "PATCH", POOL, change, content=MERGE)
            await asyncio.sleep(0.3)

    editing = asyncio.create_task(edit())
    try:
        yield
    finally:
        editing.cancel()


async def _hand_over(
    pair: Pair,
    session: aiohttp.ClientSession,
    what: str,
    happens: collections.abc.Callable[[Replica], None],
    *,
    undo: collections.abc.Callable[[Replica], None],
    within_s: float = WITHIN_S,
) -> tuple[str, str, list[Write]]:
    """The leader's and the next one's name, and all writes from before `happens` to after `undo`.

    The successor works within `within_s` seconds.
    """
    leader, follower = await asyncio.to_thread(pair.until_one_leads)
    async with _edits(session):
        begun_s = time.time()
        await _until(lambda: _has_written(pair, leader, since_s=begun_s))
        happened_s = time.time()
        await asyncio.to_thread(happens, leader)
        await _until(lambda: _has_written(pair, follower, since_s=happened_s))
        await asyncio.sleep(3)
        await asyncio.to_thread(undo, leader)
        await asyncio.sleep(6)
    writes = pair.writes(since_s=begun_s)
    first = next(w for w in writes if w.who == follower.name and w.code < 300)
    print(f"\n{what}: the next leader writes after {first.begun_s - happened_s:.1f} s")
    assert first.begun_s - happened_s < within_s
    return leader.name, follower.name, writes


def _assert_no_interleaving(leader: str, follower: str, writes: list[Write]) -> None:
    """Each write of the one had ended when the first of the other one came."""
    done = [write for write in writes if 200 <= write.code < 300]
    assert [who for who, _ in itertools.groupby(done, key=lambda w: w.who)] == [leader, follower]
    last = max(write.ended_s for write in done if write.who == leader)
    assert last <= min(write.begun_s for write in done if write.who == follower)


async def test_a_leader_that_is_killed(pair: Pair, session: aiohttp.ClientSession) -> None:
    result = await _hand_over(
        pair, session, "killed", lambda leader: leader.signal("KILL"), undo=Replica.start
    )
    _assert_no_interleaving(*result)


async def test_a_leader_that_is_told_to_stop(pair: Pair, session: aiohttp.ClientSession) -> None:
    result = await _hand_over(
        pair,
        session,
        "told to stop",
        lambda leader: leader.signal("TERM"),
        undo=Replica.start,
        within_s=RELEASED_WITHIN_S,
    )
    _assert_no_interleaving(*result)


async def test_a_leader_that_is_paused_past_its_deadline_and_goes_on(
    pair: Pair, session: aiohttp.ClientSession
) -> None:
    result = await _hand_over(
        pair,
        session,
        "paused",
        lambda leader: leader.signal("STOP"),
        undo=lambda leader: leader.signal("CONT"),
    )
    _assert_no_interleaving(*_without_late_events(*result))


async def test_a_leader_that_is_cut_off(pair: Pair, session: aiohttp.ClientSession) -> None:
    result = await _hand_over(
        pair,
        session,
        "cut off",
        lambda leader: leader.signal("STOP", wire=True),
        undo=lambda leader: leader.signal("CONT", wire=True),
    )
    _assert_no_interleaving(*_without_late_events(*result))


async def test_what_a_former_leader_has_sent_arrives_late_and_changes_nothing(
    pair: Pair, session: aiohttp.ClientSession
) -> None:
    def unheard(leader: Replica) -> None:
        leader.signal("USR1", wire=True)
        time.sleep(2)
        # One that gives up says so, and the server forgets the request.
        leader.signal("KILL")

    def heard(leader: Replica) -> None:
        leader.signal("USR2", wire=True)
        leader.start()

    result = await _hand_over(pair, session, "unheard", unheard, undo=heard)
    late = _late(*result)
    print(f"{len(late)} writes arrived late, with {sorted({write.code for write in late})}")
    assert late
    _assert_no_interleaving(*_without_late_events(*result))


def _late(leader: str, follower: str, writes: list[Write]) -> list[Write]:
    """What the former leader had given to its network, and the server heard after the next one."""
    taken_over_s = next(write.begun_s for write in writes if write.who == follower)
    return [write for write in writes if write.who == leader and write.begun_s > taken_over_s]


def _without_late_events(
    leader: str, follower: str, writes: list[Write]
) -> tuple[str, str, list[Write]]:
    """Events are news, of which none undoes another: no precondition keeps them out."""
    late = _late(leader, follower, writes)
    return leader, follower, [w for w in writes if "/events" not in w.path or w not in late]


def _has_written(pair: Pair, replica: Replica, *, since_s: float) -> bool:
    return any(
        write.who == replica.name and write.code < 300 for write in pair.writes(since_s=since_s)
    )


async def _until(condition: collections.abc.Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def _entry(line: str) -> dict[str, Any]:
    """An entry of the audit log; the last one may be half written."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return entry


def _claims(token: str) -> dict[str, Any]:
    """What a JWT says of itself."""
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
