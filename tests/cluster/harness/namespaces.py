"""The machine within the machine: own mounts, network and process ids.

Its first process is `static/pause.c`. When that one is killed the kernel kills all others, and
with the last of them the mounts and the network go away, so nothing can be left behind.
`/var` is a folder of ours and `/run` a tmpfs there, so that kubelet's and the agent's fixed paths
are the cluster's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.harness import images
from cluster.harness.certificates import NODE_IP, SERVICE_IP
from cluster.harness.errors import ClusterError, run, wait_until

# The Service address of the API server is simply one of the node's own: no kube-proxy is needed.
# The kernel may lack the `dummy` device type; a veth pair with both ends here always exists.
SET_UP = f"""
set -e
mount --make-rshared /
mount --bind "$1" /var
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/netns
ip link set lo up
ip address add {SERVICE_IP}/32 dev lo
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip address add {NODE_IP}/24 dev eth0
ip link set eth0 up
ip route add default via 10.99.0.254
"""


@dataclass(frozen=True)
class Namespaces:
    """`state` holds what the cluster writes: pid files, logs, and the node's `/var`."""

    state: Path
    path: str
    """PATH of what runs inside."""

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def admin(self) -> Path:
        """The kubeconfig of the administrator."""
        return self.pki / "admin.kubeconfig"

    @property
    def var(self) -> Path:
        return self.state / "var"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    def create(self, *, keep_open: int) -> None:
        """Start the first process, then mounts and network; `keep_open` is the lock it holds."""
        for folder in ("lib/kubelet", "lib/som", "lib/cni", "log/pods", "tmp"):
            (self.var / folder).mkdir(parents=True, exist_ok=True)
        (self.var / "run").symlink_to("/run")
        self.logs.mkdir(exist_ok=True)
        reaper = self.state / "reaper"
        images.compile_static("pause", reaper)
        own = "unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private"
        log = self.logs / "namespaces.log"
        outside = _background([*own.split(), str(reaper)], log=log, keep_open=[keep_open])

        def first_process() -> int:
            children = Path(f"/proc/{outside}/task/{outside}/children")
            if not children.exists():
                raise ClusterError(log.read_text())
            pids = children.read_text().split()
            return int(pids[0]) if pids and _program(int(pids[0])) == reaper else 0

        pid = wait_until("the namespaces", first_process, deadline_s=60, every_s=0.02)
        (self.state / "first.pid").write_text(str(pid))
        self.run(["sh", "-c", SET_UP, "set-up", self.var])

    def first_pid(self) -> int | None:
        """The first process as the machine sees it, or None where the cluster is not up."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((self.state / "first.pid").read_text())
            if _program(pid) == self.state / "reaper":
                return pid
        return None

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """The command that runs `command` inside."""
        pid = self.first_pid()
        if pid is None:
            raise ClusterError("the cluster is not up; start it with `make cluster-up`")
        words = ["nsenter", f"--target={pid}", "--mount", "--net", "--pid"]
        words += ["--wd=/", "--", "env", f"PATH={self.path}", f"KUBECONFIG={self.admin}"]
        return words + [str(word) for word in command]

    def run(
        self, command: Sequence[str | Path], *, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        return run(self.enter(command), stdin=stdin, check=check)

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start a component that goes on after us; its log is `logs/<name>.log`."""
        script = 'echo $$ > "$1"; shift; exec "$@"'
        pid_file = self._pid_file(name)
        pid_file.unlink(missing_ok=True)
        inside = self.enter(["sh", "-c", script, name, pid_file, *command])
        _background(inside, log=self.logs / f"{name}.log")

        def started() -> bool:
            return pid_file.exists() and bool(pid_file.read_text())

        wait_until(f"{name} to start", started, deadline_s=60, every_s=0.02)

    def stop(self, name: str, *, force: bool = False) -> None:
        """End a component and wait until it is gone."""
        pid = self._pid_file(name).read_text().strip()
        self.run(["kill", "-KILL" if force else "-TERM", pid], check=False)
        wait_until(f"{name} to end", lambda: not self.alive(name), deadline_s=60)
        self._pid_file(name).unlink()

    def alive(self, name: str) -> bool:
        """Whether the component's process (by its pid file) exists and is no zombie."""
        if not self._pid_file(name).exists():
            return False
        pid = self._pid_file(name).read_text().strip()
        status = self.run(["cat", f"/proc/{pid}/stat"], check=False).stdout
        return bool(status) and status.rpartition(")")[2].split()[0] != "Z"

    def destroy(self) -> None:
        """Kill everything inside and wait for the end of all; also where others killed it.

        A process that ends lacks a program before it lacks mounts, and the first one lacks both
        before the others have ended: so it is the mounts' users that are waited for.
        """
        pid = self.first_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        wait_until("all processes to end", lambda: not self._has_processes(), deadline_s=180)

    def _has_processes(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            if _is_ending(int((self.state / "first.pid").read_text())):
                return True
        return any(self._has_our_var(process) for process in Path("/proc").glob("[0-9]*"))

    def _has_our_var(self, process: Path) -> bool:
        """Whether a process sees our folder as its `/var`; other runs have one of the same name.

        Its path there begins at the root of its file system, so it is an end of ours.
        """
        ours = str(self.var.resolve())
        ends = f"/{self.state.name}/{self.var.name}"
        roots = re.findall(r"^\S+ \S+ \S+ (\S+) /var ", _mounts(process), re.M)
        return any(root.endswith(ends) and ours.endswith(root) for root in roots)

    def _pid_file(self, name: str) -> Path:
        return self.state / f"{name}.pid"


def _program(pid: int) -> Path | None:
    """The program of a live process."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/exe").readlink()
    return None


def _mounts(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "mountinfo").read_text()
    return ""


def _is_ending(pid: int) -> bool:
    """Whether a killed first process still waits for those whose end it is."""
    # One that ends between open and read is no such process (ESRCH).
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        _, name, state = re.split(r"\((.*)\) ", Path(f"/proc/{pid}/stat").read_text())
        return name == "reaper" and state[0] not in "ZX"
    return False


def _background(command: Sequence[str], *, log: Path, keep_open: Sequence[int] = ()) -> int:
    """Start a command that outlives us, as a child of nobody's; return its pid."""
    script = 'log=$1; shift; setsid "$@" < /dev/null >> "$log" 2>&1 & echo $!'
    started = subprocess.run(
        ["sh", "-c", script, "sh", str(log), *command],
        pass_fds=keep_open,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(started.stdout)
