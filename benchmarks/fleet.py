"""som-operator with a large fleet on a real API server, one JSON line per figure.

    python benchmarks/fleet.py --nodes 1000

As root, with the binaries of the cluster tier (built when they are missing). etcd, kube-apiserver
and the operator with its own rights run in namespaces; Nodes and the agents' Pods are written into
etcd, and this program plays what kubelets and agents write. The phases: a cold start (no SomNode
exists), the same pool's capacity edited, steady state, a restart with nothing to do, the pool
deleted.

Where `holds` is false, a limit was missed, and the program ends with 1. `silence_s` is the longest
time that /healthz took to answer, `watches_ended` counts the operator's watches that lasted for
less than two minutes (a server ends those that are read too slowly), `pool_writes_gap_s` is the
shortest time between two writes of the pool's status, `ready_stood_s` the longest time that
READY-NODES stood still on its way up. `steps` say when which part of the fleet was there. Requests
are counted from the audit log.
"""

import argparse
import asyncio
import collections
import contextlib
import datetime
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

from played_fleet import NAMESPACE, POOL, Fleet, fill_etcd

from som_api import kube

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

PORT = 8080
LONGEST_S = 1800.0
LIMITS: dict[str, float] = {
    "silence_s": 1.5,
    "watches_ended": 0,
    "resync_s": 10,
    "peak_rss_mb": 400,
    "ready_stood_s": 30,
}
AT_LEAST: dict[str, float] = {"pool_writes_gap_s": 0.9}
MISSED: list[str] = []


def say(nodes: int, phase: str, **figures: Any) -> None:
    """Print the figures, and note which of them miss their limit."""
    for figure, value in figures.items():
        line: dict[str, Any] = {"nodes": nodes, "phase": phase, "figure": figure}
        line["value"] = round(value, 2) if isinstance(value, float) else value
        if figure in LIMITS and value is not None:
            line |= {"limit": LIMITS[figure], "holds": value <= LIMITS[figure]}
        if figure in AT_LEAST and value is not None:
            line |= {"limit": AT_LEAST[figure], "holds": value >= AT_LEAST[figure]}
        if not line.get("holds", True):
            MISSED.append(f"{phase}: {figure}")
        print(json.dumps(line), flush=True)


class Operator:
    """The process som-operator, and how long it stayed silent."""

    def __init__(self, state: pathlib.Path) -> None:
        self.state = state
        self.silence_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = threading.Event()

    def start(self) -> None:
        words = [str(pathlib.Path(sys.executable).with_name("som-operator"))]
        words += [f"--kubeconfig={self.state}/operator.kubeconfig", f"--endpoint=127.0.0.1:{PORT}"]
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
            begun_s = time.monotonic()
            if self.get("/healthz"):
                self.silence_s = max(self.silence_s, time.monotonic() - begun_s)
            time.sleep(0.05)

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
        self.operator.silence_s = 0.0
        cpu_s = 0.0 if cold else self.operator.cpu_s()
        yield figures
        seconds = time.monotonic() - begun_s
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
            watches_ended=watches_ended(self.state, since_s),
            pool_writes=len(writes),
            pool_writes_gap_s=min(gaps, default=None),
            cpu_s=self.operator.cpu_s() - cpu_s,
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
        spec = {
            "nodeSelector": {"matchLabels": {"fleet": "yes"}},
            "unit": "2Mi",
            "capacity": "64Gi",
            "source": {"hugeTLB": {"pageSize": "2Mi"}},
        }
        pool = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "spec": spec}
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
            await fleet.client.merge_patch(path, {"spec": {"capacity": "96Gi"}})
            figures["steps"] = await self.steps(
                ordered=lambda: fleet.ordered("96Gi"),
                advertised=lambda: fleet.advertised("49152"),
                ready=lambda: fleet.ready("96Gi"),
            )
        async with self.phase("steady") as figures:
            await fleet.live(report_every_s, steady_s)
            figures["reports_per_s"] = fleet.count / report_every_s
        operator.stop()
        async with self.phase("restart, nothing to do", cold=True) as figures:
            operator.start()
            steps = await self.steps(
                synced=lambda: bool(operator.get("/readyz")),
                reconciled=lambda: operator.reconciles() >= fleet.count,
            )
            figures |= {"steps": steps, "resync_s": steps.get("reconciled", LONGEST_S)}
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


async def inside(arguments: argparse.Namespace) -> None:
    """In the cluster's namespaces, beside the control plane."""
    from cluster.harness import control_plane

    state: pathlib.Path = arguments.inside
    begun_s = time.monotonic()
    await fill_etcd(control_plane.ETCD, arguments.nodes)
    say(arguments.nodes, "preparation", seconds=time.monotonic() - begun_s)
    kubeconfig = state / "pki" / "admin.kubeconfig"
    async with await kube.connect(user_agent="fleet", kubeconfig=kubeconfig) as client:
        fleet, operator = Fleet(client, arguments.nodes), Operator(state)
        async with fleet.running():
            await Measurement(state, fleet, operator).run(
                steady_s=arguments.steady, report_every_s=arguments.report_every
            )


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
        user = f"- name: admin\n  user: {{token: {token}}}\n"
        mine = re.sub(r"- name: admin\n  user: .*\n", lambda _: user, names.admin.read_text())
        (state / "operator.kubeconfig").write_text(mine)
        yield names
    finally:
        names.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--steady", type=float, default=60, help="seconds of steady state")
    parser.add_argument("--report-every", type=float, default=60, help="seconds, of one agent")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder that keeps logs afterwards")
    parser.add_argument("--inside", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        asyncio.run(inside(arguments))
        sys.exit(1 if MISSED else 0)
    # Told to stop, it still takes the namespaces down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="som-fleet-") as folder:
        state = pathlib.Path(folder)
        with cluster(state) as names:
            words = [sys.executable, __file__, f"--inside={state}", f"--nodes={arguments.nodes}"]
            words += [f"--steady={arguments.steady}", f"--report-every={arguments.report_every}"]
            done = subprocess.run(names.enter(words), check=False)
        if arguments.keep:
            shutil.copytree(state / "logs", arguments.keep, dirs_exist_ok=True)
            shutil.copy(state / "operator.log", arguments.keep)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
