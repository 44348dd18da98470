"""som-operator with a large fleet on a real API server, one JSON line per figure.

    python benchmarks/fleet.py --nodes 1000

As root, with the binaries of the cluster tier (built when they are missing). etcd, kube-apiserver
and the operator with its own rights run in namespaces; Nodes and the agents' Pods are written into
etcd, and this program plays what kubelets and agents write. The phases: a cold start (no SomNode
exists), the same pool's capacity edited, steady state, fleet API and page looked at without and
with reports, a restart with nothing to do, the pool deleted.

Where `holds` is false, a limit was missed, and the program ends with 1. `silence_s` is the longest
time that /healthz took to answer (it is asked five times a second), without the time that the
operator waited for a CPU which others
had (`silence_on_this_machine_s` includes it), `core` the share of a core that the operator used,
`plans_per_node` how often each node was planned because SomPools changed, `watches_ended` the
number of the operator's watches that lasted for less than two minutes (a server ends those that
are read too slowly), `pool_writes_gap_s` the shortest time between two writes of the pool's
status, `ready_stood_s` the longest time that READY-NODES stood still on its way up, `list_s` and
`overview_s` how long the fleet API's list of all nodes and the page's overview take (see
`looked_at.py`), `reports_played` which part of the reports due this machine had time for: where it
is less than nine tenths, `core` says nothing. `steps` say when which part of the fleet was there.
Requests are counted from the audit log.

With several numbers of nodes, the fleets are measured one after the other. The figures of the
phase "growth" say how many times the CPU of the first one the last one took: at most as many as
it has times its nodes.
"""

import argparse
import asyncio
import collections
import contextlib
import datetime
import gc
import http.client
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import counted_operator
import looked_at
from played_fleet import NAMESPACE, POOL, SPEC, Fleet, fill_etcd

from som_api import kube
from som_api.plan import standing

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

PORT = 8080
ASKED_EVERY_S = 0.2
"""More often, the asking itself is a good part of what a steady operator does."""
LONGEST_S = 1800.0
LOOKING_S = 15.0
LIMITS: dict[str, float] = {
    "silence_s": 1.0,
    "watches_ended": 0,
    "resync_s": 10,
    "rss_mb": 250,
    "ready_stood_s": 30,
    "list_first_s": 1.0,
    "list_s": 1.0,
    "overview_first_s": 1.0,
    "overview_s": 1.0,
    "plans_per_node": 1,
    "steady: core": 0.2,
}
AT_LEAST: dict[str, float] = {"pool_writes_gap_s": 0.9, "reports_played": 0.9}
GROWING = (
    "cold start",
    "one pool edited",
    "steady",
    "looked at",
    "restart, nothing to do",
    "pool deleted",
    "one pool edited, until it is planned",
)
MISSED: list[str] = []
SAID: list[dict[str, Any]] = []


def say(nodes: int, phase: str, *, most: float | None = None, **figures: Any) -> None:
    """Print the figures, and note which of them miss their limit (`most`, where it is given)."""
    for figure, value in figures.items():
        line: dict[str, Any] = {"nodes": nodes, "phase": phase, "figure": figure}
        line["value"] = round(value, 3) if isinstance(value, float) else value
        SAID.append(line)
        limit = most or LIMITS.get(f"{phase}: {figure}", LIMITS.get(figure))
        if limit is not None and value is not None:
            line |= {"limit": limit, "holds": value <= limit}
        if figure in AT_LEAST and value is not None:
            line |= {"limit": AT_LEAST[figure], "holds": value >= AT_LEAST[figure]}
        if not line.get("holds", True):
            MISSED.append(f"{phase}: {figure}")
        print(json.dumps(line), flush=True)


class Operator:
    """The process som-operator, and how long it stayed silent."""

    def __init__(self, state: pathlib.Path, *, profiled: bool = False) -> None:
        self.state = state
        self.counts = state / "counts"
        self.silence_s = self.silence_on_this_machine_s = 0.0
        self._profiled = profiled
        self._started = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = threading.Event()

    def start(self) -> None:
        counted = pathlib.Path(__file__).with_name("counted_operator.py")
        words = [sys.executable, str(counted), str(self.counts)]
        self._started += 1
        if self._profiled:
            words.append(f"--profile={self.state}/logs/operator-{self._started}.profile")
        words += [f"--kubeconfig={self.state}/operator.kubeconfig", f"--endpoint=127.0.0.1:{PORT}"]
        words += [f"--api=127.0.0.1:{looked_at.PORT}"]
        with (self.state / "operator.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        self._asking.set()
        threading.Thread(target=self._ask, daemon=True).start()

    def stop(self) -> None:
        assert self._process is not None
        self._asking.clear()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    @property
    def pid(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise SystemExit(f"the operator has ended; see {self.state}/operator.log")
        return self._process.pid

    def _ask(self) -> None:
        while self._asking.is_set():
            begun_s, waited_s = time.monotonic(), self.waited_s()
            if self.get("/healthz"):
                whole_s, waited_s = time.monotonic() - begun_s, self.waited_s() - waited_s
                self.silence_on_this_machine_s = max(self.silence_on_this_machine_s, whole_s)
                self.silence_s = max(self.silence_s, whole_s - waited_s)
            time.sleep(ASKED_EVERY_S)

    def waited_s(self) -> float:
        """How long the operator's main thread was ready to run and others had the CPUs."""
        text = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text()
        return int(text.split()[1]) / 1e9

    def get(self, path: str) -> str:
        """The body of a good answer, else ""."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else ""
        return ""

    def reconciles(self) -> float:
        text = self.get("/metrics")
        found = re.search(r'som_operator_reconciles_total\{controller="node"\} (\S+)', text)
        return float(found[1]) if found else 0.0

    def cpu_s(self) -> float:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self, field: str) -> int:
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+)", text)
        assert found is not None
        return int(found[1]) // 1024


def audited(state: pathlib.Path) -> Iterator[dict[str, Any]]:
    """What the API server noted about the operator's requests."""
    for path in sorted((state / "logs").glob("audit*.log")):
        for line in path.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if entry["user"]["username"].endswith(":som-operator"):
                yield entry


def requests(state: pathlib.Path, since_s: float) -> list[tuple[float, str]]:
    """(time, verb and resource) of what the operator asked for."""
    found = []
    for entry in audited(state):
        at_s = _seconds(entry["requestReceivedTimestamp"])
        begins = entry["stage"] == "ResponseStarted"
        if at_s < since_s or begins != (entry["verb"] == "watch"):
            continue
        about = entry.get("objectRef", {})
        words = [entry["verb"], "/".join(filter(None, map(about.get, _NAMES)))]
        code = entry.get("responseStatus", {}).get("code", 0)
        found.append((at_s, " ".join([*words, str(code)] if code >= 400 else words)))
    return sorted(found)


def watches_ended(state: pathlib.Path, since_s: float) -> int:
    """Watches of the operator that ended since, and too early."""
    return sum(
        entry["verb"] == "watch"
        and entry["stage"] == "ResponseComplete"
        and _seconds(entry["stageTimestamp"]) >= since_s
        and _seconds(entry["stageTimestamp"]) - _seconds(entry["requestReceivedTimestamp"]) < 120
        for entry in audited(state)
    )


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp).timestamp()


_NAMES = ("resource", "subresource")


class Measurement:
    """Phases of one fleet."""

    def __init__(self, state: pathlib.Path, fleet: Fleet, operator: Operator) -> None:
        self.state, self.fleet, self.operator = state, fleet, operator

    @contextlib.asynccontextmanager
    async def phase(self, name: str, *, cold: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Measure what the block does; it may add figures."""
        figures: dict[str, Any] = {}
        since_s, begun_s = time.time(), time.monotonic()
        self.fleet.ready_at.clear()
        self.operator.silence_s = self.operator.silence_on_this_machine_s = 0.0
        cpu_s = 0.0 if cold else self.operator.cpu_s()
        yield figures
        seconds, used_s = time.monotonic() - begun_s, self.operator.cpu_s() - cpu_s
        await asyncio.sleep(1.5)
        asked = requests(self.state, since_s)
        writes = [at_s for at_s, what in asked if what == "patch sompools/status"]
        gaps = [later - earlier for earlier, later in itertools.pairwise(writes)]
        counted = collections.Counter(what for _, what in asked)
        say(
            self.fleet.count,
            name,
            **figures,
            seconds=seconds,
            silence_s=self.operator.silence_s,
            silence_on_this_machine_s=self.operator.silence_on_this_machine_s,
            watches_ended=watches_ended(self.state, since_s),
            pool_writes=len(writes),
            pool_writes_gap_s=min(gaps, default=None),
            cpu_s=used_s,
            core=used_s / seconds,
            rss_mb=self.operator.rss_mb("VmRSS"),
            peak_rss_mb=self.operator.rss_mb("VmHWM"),
            requests=dict(counted.most_common()),
        )

    async def steps(self, **probes: Callable[[], bool]) -> dict[str, float]:
        """When each probe was true first, in seconds from now."""
        begun_s, found = time.monotonic(), dict[str, float]()
        while len(found) < len(probes):
            for name, probe in probes.items():
                if name not in found and probe():
                    found[name] = round(time.monotonic() - begun_s, 1)
            if time.monotonic() - begun_s > LONGEST_S:
                MISSED.append("it took too long")
                break
            await asyncio.sleep(0.1)
        return found

    async def run(self, *, steady_s: float, report_every_s: float) -> None:
        fleet, operator = self.fleet, self.operator
        path = kube.SOMPOOLS.path(name=POOL)
        pool = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "spec": SPEC}
        async with self.phase("cold start", cold=True) as figures:
            await fleet.client.create(kube.SOMPOOLS.path(), pool | {"metadata": {"name": POOL}})
            operator.start()
            figures["steps"] = await self.steps(
                synced=lambda: bool(operator.get("/readyz")),
                ordered=lambda: fleet.ordered("64Gi"),
                first_reported=lambda: fleet.reported > 0,
                first_advertised=lambda: fleet.advertised("32768", at_least=1),
                advertised=lambda: fleet.advertised("32768"),
                ready=lambda: fleet.ready("64Gi"),
            )
            figures["ready_stood_s"] = fleet.ready_stood_s()
        async with self.phase("one pool edited") as figures:
            before = counted_operator.read(operator.counts)
            await fleet.client.merge_patch(path, {"spec": {"capacity": "96Gi"}})
            figures["steps"] = await self.steps(
                ordered=lambda: fleet.ordered("96Gi"),
                advertised=lambda: fleet.advertised("49152"),
                ready=lambda: fleet.ready("96Gi"),
            )
            after = counted_operator.read(operator.counts)
            figures["plans"] = after[0] - before[0]
            figures["plans_per_node"] = (after[1] - before[1]) / fleet.count
        await self._steady(steady_s, report_every_s)
        await self._looked_at(report_every_s)
        operator.stop()
        await self._restart()
        async with self.phase("pool deleted") as figures:
            await fleet.client.delete(path)
            figures["steps"] = await self.steps(
                withdrawn=lambda: fleet.advertised(""),
                orders_gone=lambda: fleet.ordered(None),
                gone=lambda: kube.Key("", POOL) not in fleet.pools.cache,
            )
        operator.stop()
        log = (self.state / "operator.log").read_text()
        say(fleet.count, "log", lines=log.count("\n"), errors=log.count(" ERROR "))

    async def run_in_place(self, *, steady_s: float, report_every_s: float) -> None:
        """As `run` of a fleet that is settled: without what takes the API server minutes."""
        fleet, operator = self.fleet, self.operator
        path = kube.SOMPOOLS.path(name=POOL)
        metadata = {"name": POOL, "finalizers": [standing.FINALIZER]}
        pool = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "metadata": metadata}
        await fleet.client.create(kube.SOMPOOLS.path(), {**pool, "spec": SPEC})
        await self._restart()
        await self._steady(steady_s, report_every_s)
        await self._looked_at(report_every_s)
        async with self.phase("one pool edited, until it is planned") as figures:
            planned = counted_operator.read(operator.counts)[1]
            await fleet.client.merge_patch(path, {"spec": {"capacity": "96Gi"}})
            figures["steps"] = await self.steps(
                planned=lambda: counted_operator.read(operator.counts)[1] >= planned + fleet.count,
                told=lambda: fleet.observed_generation() == 2,
            )
            plans = counted_operator.read(operator.counts)[1] - planned
            figures["plans_per_node"] = plans / fleet.count
        operator.stop()

    async def _steady(self, steady_s: float, report_every_s: float) -> None:
        async with self.phase("steady") as figures:
            reported, cpu_s = self.fleet.reported, self.operator.cpu_s()
            await self.fleet.live(report_every_s, steady_s)
            reports = self.fleet.reported - reported
            figures["reports_per_s"] = reports / steady_s
            figures["reports_played"] = reports / (self.fleet.count * steady_s / report_every_s)
            figures["cpu_ms_per_report"] = 1000 * (self.operator.cpu_s() - cpu_s) / max(1, reports)

    async def _looked_at(self, report_every_s: float) -> None:
        token = (self.state / "token").read_text()
        operator = self.operator
        viewer = looked_at.Viewer(token, cpu_s=operator.cpu_s, waited_s=operator.waited_s)
        async with self.phase("looked at") as figures:
            await viewer.wait()
            figures |= await viewer.figures("list", looked_at.LIST)
            figures |= await viewer.figures("overview", looked_at.OVERVIEW)
        looks: list[float] = []
        async with self.phase("looked at, with reports") as figures:
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(viewer.looking(looked_at.OVERVIEW, looks))
                await self.fleet.live(report_every_s, LOOKING_S)
                looking.cancel()
            figures["overview_s"] = max(looks)

    async def _restart(self) -> None:
        fleet, operator = self.fleet, self.operator
        async with self.phase("restart, nothing to do", cold=True) as figures:
            operator.start()
            steps = await self.steps(
                synced=lambda: bool(operator.get("/readyz")),
                reconciled=lambda: operator.reconciles() >= fleet.count,
            )
            figures |= {"steps": steps, "resync_s": steps.get("reconciled", LONGEST_S)}


async def inside(arguments: argparse.Namespace) -> None:
    """In the cluster's namespaces, beside the control plane."""
    from cluster.harness import control_plane

    state: pathlib.Path = arguments.inside
    # While this program searched all that it plays for cycles, the operator would seem silent.
    gc.disable()
    begun_s = time.monotonic()
    (count,) = arguments.nodes
    await fill_etcd(control_plane.ETCD, count, in_place=arguments.in_place)
    say(count, "preparation", seconds=time.monotonic() - begun_s)
    kubeconfig = state / "pki" / "admin.kubeconfig"
    async with await kube.connect(user_agent="fleet", kubeconfig=kubeconfig) as client:
        fleet = Fleet(client, count, etcd=control_plane.ETCD)
        operator = Operator(state, profiled=arguments.profile)
        async with fleet.running():
            measurement = Measurement(state, fleet, operator)
            run = measurement.run_in_place if arguments.in_place else measurement.run
            await run(steady_s=arguments.steady, report_every_s=arguments.report_every)


@contextlib.contextmanager
def cluster(state: pathlib.Path) -> Iterator[Any]:
    """etcd and kube-apiserver with the chart's objects, and a kubeconfig of the operator's."""
    from cluster.harness import binaries, control_plane
    from cluster.harness.certificates import write_all
    from cluster.harness.namespaces import Namespaces

    binaries.install_packages()
    folders = [str(folder) for folder in binaries.build_all()]
    path = ":".join([*folders, "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    names = Namespaces(state=state, path=path)
    write_all(names.pki)
    nothing = os.open(os.devnull, os.O_RDONLY)
    names.create(keep_open=nothing)
    os.close(nothing)
    try:
        etcd = ["etcd", f"--data-dir={state}/etcd", f"--listen-client-urls={control_plane.ETCD}"]
        etcd += [f"--advertise-client-urls={control_plane.ETCD}", "--unsafe-no-fsync"]
        etcd += ["--listen-peer-urls=http://127.0.0.1:2380", f"--quota-backend-bytes={8 << 30}"]
        names.start("etcd", etcd)
        control_plane.start_api_server(names)
        names.run(["kubectl", "create", "namespace", NAMESPACE])
        render = ["helm", "template", "som", f"{ROOT}/charts/som", f"--namespace={NAMESPACE}"]
        render += ["--no-hooks", f"--kube-version={binaries.KUBERNETES}"]
        apply = ["kubectl", "apply", "--server-side", "--filename=-"]
        names.run(apply, stdin=names.run(render).stdout)
        crds = ["crd/sompools.som.io", "crd/somnodes.som.io"]
        names.run(["kubectl", "wait", "--for=condition=Established", *crds])
        words = ["kubectl", "create", "token", "som-operator", f"--namespace={NAMESPACE}"]
        token = names.run([*words, "--duration=6h"]).stdout.strip()
        (state / "token").write_text(token)
        user = f"- name: admin\n  user: {{token: {token}}}\n"
        mine = re.sub(r"- name: admin\n  user: .*\n", lambda _: user, names.admin.read_text())
        (state / "operator.kubeconfig").write_text(mine)
        yield names
    finally:
        names.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000])
    parser.add_argument("--steady", type=float, default=60, help="seconds of steady state")
    parser.add_argument("--report-every", type=float, default=30, help="seconds, of one agent")
    parser.add_argument("--in-place", action="store_true", help="a fleet that is settled already")
    parser.add_argument("--profile", action="store_true", help="the operator's, kept by --keep")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder that keeps logs afterwards")
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        asyncio.run(inside(arguments))
        (arguments.inside / "said.json").write_text(json.dumps(SAID))
        sys.exit(1 if MISSED else 0)
    # Told to stop, it still takes the namespaces down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    fleets = [measured(arguments, nodes) for nodes in arguments.nodes]
    first, last = arguments.nodes[0], arguments.nodes[-1]
    if last != first:
        for phase in (phase for phase in GROWING if (phase, "cpu_s") in fleets[0]):
            growth = fleets[-1][phase, "cpu_s"] / fleets[0][phase, "cpu_s"]
            say(last, "growth", most=last / first, **{phase: growth})
    sys.exit(1 if MISSED else 0)


def measured(arguments: argparse.Namespace, nodes: int) -> dict[tuple[str, str], Any]:
    """Measure a fleet in a cluster of its own; the figures by phase and name."""
    with tempfile.TemporaryDirectory(prefix="som-fleet-") as folder:
        state = pathlib.Path(folder)
        with cluster(state) as names:
            words = [sys.executable, __file__, f"--inside={state}", f"--nodes={nodes}"]
            words += [f"--steady={arguments.steady}", f"--report-every={arguments.report_every}"]
            words += ["--profile"] if arguments.profile else []
            words += ["--in-place"] if arguments.in_place else []
            done = subprocess.run(names.enter(words), check=False)
        if arguments.keep:
            shutil.copytree(state / "logs", arguments.keep, dirs_exist_ok=True)
            shutil.copy(state / "operator.log", arguments.keep)
        if done.returncode:
            MISSED.append(f"{nodes} nodes")
        said = state / "said.json"
        lines = json.loads(said.read_text()) if said.exists() else []
    return {(line["phase"], line["figure"]): line["value"] for line in lines}


if __name__ == "__main__":
    main()
