"""A pool of local mode for the benchmarks, and programs run in it."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from som_device_plugin.local import layout
from som_device_plugin.local.command import background

SOM = pathlib.Path(sys.executable).parent / "som"
HERE = pathlib.Path(__file__).parent
SPARES = """
SELECT starts.size_bytes FROM starts JOIN leases USING (lease_id)
WHERE ticket = '' AND NOT ended AND state = 'ready'
"""
"""Of an agent's store: the size of each piece that is zeroed ahead."""
NR_HUGEPAGES = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a program printed, and what `som local run` said of its start."""

    output: str
    ready: dict[str, float]


class Local:
    """`som local` on a pool of `mib` MiB in a state directory of its own."""

    def __init__(self, state_dir: pathlib.Path, *, mib: int) -> None:
        self.state_dir = state_dir
        self._mib = mib

    def order(self, *, warm_mib: int = 0) -> None:
        """Have the pool, with so much zeroed ahead in one piece."""
        warm = [{"size": f"{warm_mib}Mi", "count": 1}] if warm_mib else []
        source = {"hugeTLB": {"pageSize": "2Mi"}}
        spec = {"unit": "2Mi", "capacity": f"{self._mib}Mi", "source": source, "warm": warm}
        kind = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool"}
        order = self.state_dir.parent / "sompool.json"
        order.write_text(json.dumps({**kind, "metadata": {"name": "benchmark"}, "spec": spec}))
        self.som("up", "-f", str(order))

    def som(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(SOM), "local", arguments[0], "--state-dir", str(self.state_dir)]
        return subprocess.run(
            [*command, *arguments[1:]], check=True, capture_output=True, text=True
        )

    def run(self, mib: int, program: Sequence[str]) -> Run:
        """Run `program` with `mib` MiB of som memory."""
        done = self.som(
            "run", "--request", f"som.io/2Mi={mib // 2}", "--output", "json", "--", *program
        )
        messages = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        (ready,) = [message for message in messages if message["event"] == "ready"]
        return Run(output=done.stdout, ready=ready)

    def wait_released(self) -> None:
        """Returns when all of the pool is free again."""
        while True:
            status = json.loads(self.som("status", "--output", "json").stdout)
            (shown,) = status["pools"]
            if shown["free_bytes"] == shown["capacity_bytes"]:
                return

    def agent_pid(self) -> int:
        agent = background.agent(layout.StateDir(self.state_dir))
        if agent is None:
            raise SystemExit("the kubelet stand-in does not answer")
        return agent.pid


@contextlib.contextmanager
def pool(*, mib: int) -> Iterator[Local]:
    """A pool that is there inside the block and given back after it, also at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="som-") as directory:
        local = Local(pathlib.Path(directory) / "s", mib=mib)
        local.state_dir.mkdir()
        try:
            local.order()
            yield local
        finally:
            local.som("down", "--force")


@contextlib.contextmanager
def native_pages(*, mib: int) -> Iterator[None]:
    """Huge pages that any process may take, as a node prepared for native use has them.

    Given back after the block, also at SIGTERM.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = int(NR_HUGEPAGES.read_text())
    NR_HUGEPAGES.write_text(str(before + mib // 2))
    try:
        if int(NR_HUGEPAGES.read_text()) < before + mib // 2:
            raise SystemExit(
                f"the machine has no {mib} MiB of native huge pages to give; free some memory"
            )
        yield
    finally:
        NR_HUGEPAGES.write_text(str(int(NR_HUGEPAGES.read_text()) - mib // 2))


@contextlib.contextmanager
def compiled(name: str) -> Iterator[str]:
    """The program of `name`.c, built with -O2."""
    with tempfile.TemporaryDirectory() as directory:
        binary = f"{directory}/{name}"
        subprocess.run(["gcc", "-O2", "-o", binary, HERE / f"{name}.c"], check=True)
        pathlib.Path(directory).chmod(0o755)
        yield binary


def figure(name: str, values: Sequence[float], *, unit: str, **more: object) -> None:
    """Print one figure as a JSON line: median, least and most of `values`."""
    print(
        json.dumps(
            {
                "figure": name,
                "unit": unit,
                "median": round(statistics.median(values), 6),
                "min": round(min(values), 6),
                "max": round(max(values), 6),
                "runs": len(values),
                **more,
            }
        ),
        flush=True,
    )
