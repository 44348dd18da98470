"""An agent and the kubelet stand-in over one state directory, started and killed by tests."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from node import machine, stand_in_alone
from som_device_plugin.linux import hugepages
from som_device_plugin.local import layout

MIB = 2**20
HUGE_PAGES: Mapping[str, object] = {"hugeTLB": {"pageSize": "2Mi"}}
SOM = pathlib.Path(sys.executable).parent / "som"
REGISTERED = "registered som.io/ticket with kubelet"
KILLED = pathlib.Path(__file__).with_name("killed_agent.py")

OWNER = """
import mmap, os, sys
fd = os.open("/dev/som", os.O_RDWR)
size = os.lseek(fd, 0, os.SEEK_END)
memory = mmap.mmap(fd, size)
print("zero" if memory.find(b"P") == -1 and memory[0] == 0 else "dirty", size, flush=True)
memory[:] = b"P" * size
sys.stdin.read()
print("kept" if memory[:] == b"P" * size else "lost", flush=True)
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


class Program:
    """A program under `som local run` that owns a lease until `end`."""

    def __init__(self, state_dir: layout.StateDir, units: int) -> None:
        command = [str(SOM), "local", "run", "--state-dir", str(state_dir.path)]
        command += ["--request", f"som.io/2Mi={units}", "--", sys.executable, "-c", OWNER]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    def found(self) -> str:
        """`zero BYTES` or `dirty BYTES`; "" when it was refused."""
        return self._stdout.readline().strip()

    def end(self) -> str:
        """Let it end: `kept` when its bytes were its own all the time."""
        self._stdin.close()
        kept = self._stdout.readline().strip()
        self._stdout.close()
        self.process.wait(60)
        return kept


class LocalNode:
    """The processes of local mode without its command, so that a test may kill each of them."""

    def __init__(self, path: pathlib.Path, *, start: Start = subprocess.Popen) -> None:
        self.state_dir = layout.StateDir(path)
        # As `som local up` does; without it there is nothing to give back.
        self.state_dir.lock.touch()
        self.state_dir.stand_in_lock.touch()
        self.generation = 0
        self.agent: subprocess.Popen[bytes] | None = None
        self.log = (path / "agent.log").open("ab")
        self.start = start
        self.start_stand_in()
        machine.wait_until(
            self.state_dir.control_socket.exists, what="the stand-in serves", deadline_s=60
        )

    def start_stand_in(self) -> None:
        """Start the kubelet stand-in."""
        command = [sys.executable, stand_in_alone.__file__, self.state_dir.path]
        self.stand_in = self.start(command, stderr=self.log)

    def admits(self) -> bool:
        """Whether the stand-in takes programs now; one that was just started does not yet."""
        with socket.socket(socket.AF_UNIX) as control:
            return control.connect_ex(str(self.state_dir.control_socket)) == 0

    def start_agent(self, *, killed_at: tuple[str, str] | None = None) -> None:
        """Start an agent; with `killed_at` (step, when) one that dies there."""
        self._registered_before = self.log_text().count(REGISTERED)
        start = ["-m", "som_device_plugin.local.agent"]
        if killed_at:
            step, when = killed_at
            start = [str(KILLED), f"som_device_plugin.{step}", when]
        command = [sys.executable, *start, str(self.state_dir.path), str(os.getpid())]
        self.agent = self.start(command, stdout=self.log, stderr=self.log)

    def wait_registered(self) -> None:
        """The agent that was started last serves: the stand-in's patience is no slow machine's."""
        machine.wait_until(
            lambda: self.log_text().count(REGISTERED) > self._registered_before,
            what="the agent has registered",
            then=self.log_text,
            deadline_s=60,
        )

    def kill_agent(self) -> None:
        """SIGKILL, wherever it is."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def wait_killed(self) -> None:
        """The agent has died by SIGKILL at its step."""
        assert self.agent is not None
        assert self.agent.wait(120) == -signal.SIGKILL, self.log_text()

    def order(self, capacity_bytes: int, *, source: Mapping[str, object] = HUGE_PAGES) -> None:
        """Order one pool of `capacity_bytes`; 0: none. Other sources need som.ko."""
        self.generation += 1
        driver = "HugeTLBFS" if source == HUGE_PAGES else "Kernel"
        size = {"unit": "2Mi", "capacity": str(capacity_bytes), "source": source}
        pool = {"name": "databases", "generation": self.generation, "driver": driver, **size}
        metadata = {"name": "local", "generation": self.generation}
        spec = {"pools": [pool] if capacity_bytes else []}
        kind = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode"}
        node = {**kind, "metadata": metadata, "spec": spec}
        layout.write_atomically(self.state_dir.orders, json.dumps(node))

    def pool(self) -> dict[str, str]:
        """The pool as the agent reports it now; {} when there is none."""
        with contextlib.suppress(FileNotFoundError):
            status = json.loads(self.state_dir.status.read_text())
            if status.get("observedGeneration") == self.generation and status["pools"]:
                return dict(status["pools"][0])
        return {}

    def wait_pool(self, **fields: str) -> None:
        """Until the report has these fields."""
        machine.wait_until(
            lambda: all(self.pool().get(name) == value for name, value in fields.items()),
            what=str(fields),
            deadline_s=120,
            then=lambda: f"reported: {self.pool()}\n{self.counters()}\n{self.log_text()[-8000:]}",
        )

    def counters(self) -> str:
        """The kernel's counters of 2 MiB pages, and whose the agent believes they are."""
        counts = {node: hugepages.node_counts(machine.PAGE, node) for node in hugepages.nodes()}
        with contextlib.closing(sqlite3.connect(self.state_dir.path / "som.db")) as store:
            believed = {
                table: store.execute(f"SELECT * FROM {table}").fetchall()
                for table in ("foreign_pages", "pool_pages")
            }
        return f"{hugepages.machine_counts(machine.PAGE)}, {counts}, {believed}"

    def leases(self) -> int:
        """How many leases of containers the store has."""
        with contextlib.closing(sqlite3.connect(self.state_dir.path / "som.db")) as store:
            return int(
                store.execute("SELECT count(*) FROM leases WHERE ticket <> ''").fetchone()[0]
            )

    def log_text(self) -> str:
        return (self.state_dir.path / "agent.log").read_text()

    def give_back(self) -> None:
        """End both processes and have `som local down` give everything back."""
        for process in (self.agent, self.stand_in):
            if process is not None:
                process.terminate()
                process.wait(60)
        self.log.close()
        down = [str(SOM), "local", "down", "--force", "--state-dir", str(self.state_dir.path)]
        subprocess.run(down, check=True)


@contextlib.contextmanager
def started(path: pathlib.Path) -> Iterator[LocalNode]:
    """A node inside the block; given back after it."""
    node = LocalNode(path)
    try:
        yield node
    finally:
        node.give_back()
