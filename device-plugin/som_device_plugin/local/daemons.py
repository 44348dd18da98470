"""The two processes behind local mode: som-agent and the kubelet stand-in."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from som_device_plugin import SomError
from som_device_plugin.local import layout

START_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 15.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class DaemonFailed(SomError):
    """A background process did not start, or did not end."""


@dataclasses.dataclass(frozen=True)
class Daemon:
    """A background process, known by a pid file that survives neither reboot nor pid reuse."""

    name: str
    command: tuple[str, ...]
    state_dir: layout.StateDir

    @property
    def log(self) -> Path:
        return self.state_dir.path / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        return self.state_dir.path / f"{self.name}.pid"

    def pid(self) -> int | None:
        """The process that runs, or None."""
        try:
            number, identity = self.pid_file.read_text(encoding="ascii").split(maxsplit=1)
        except (FileNotFoundError, ValueError):
            return None
        return int(number) if _identity(int(number)) == identity else None

    def start(self, *, ready: Callable[[], bool]) -> None:
        """Start the process unless it runs, and wait until it is ready.

        Raises:
            DaemonFailed: it ended, or was not ready in time; with the end of its log.
        """
        if self.pid() is None:
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                )
            text = f"{process.pid} {_identity(process.pid)}"
            layout.write_atomically(self.pid_file, text)
            # Not a child to wait for: it outlives this command.
            process.returncode = 0
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DaemonFailed(
                    f"{self.name} was not ready within {START_TIMEOUT_S:.0f} s: "
                    f"{self._last_words()}; see {self.log}"
                )
            time.sleep(0.02)

    def check(self) -> None:
        """Raises DaemonFailed, with its last words, when the process has ended."""
        if self.pid() is None:
            raise DaemonFailed(f"{self.name} has ended: {self._last_words()}; see {self.log}")

    def stop(self) -> None:
        """End the process and wait for it; SIGKILL after a while."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if (pid := self.pid()) is None:
                break
            os.kill(pid, number)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while self.pid() is not None and time.monotonic() < deadline:
                time.sleep(0.02)
        if (pid := self.pid()) is not None:
            raise DaemonFailed(f"{self.name} (pid {pid}) does not end; see its state in ps")
        self.pid_file.unlink(missing_ok=True)

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def stand_in(state_dir: layout.StateDir) -> Daemon:
    """The kubelet stand-in of `state_dir`."""
    command = (sys.executable, "-m", "som_device_plugin.local.kubelet", str(state_dir.path))
    return Daemon("kubelet", command, state_dir)


def agent(state_dir: layout.StateDir) -> Daemon:
    """The som-agent of `state_dir`."""
    path = str(state_dir.path)
    command = (
        *(sys.executable, "-c", "from som_device_plugin.main import main; main()"),
        *("--local", path, "--state-dir", path, "--kubelet-dir", str(state_dir.kubelet)),
        *("--endpoint", f"unix:{state_dir.agent_endpoint}"),
        *("--pod", "/".join(layout.AGENT_POD)),
    )
    return Daemon("agent", command, state_dir)


def _identity(pid: int) -> str:
    """Start time and boot of a living process; "" when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    if state in ("Z", "X"):
        return ""
    return f"{fields[18]} {_BOOT_ID.read_text(encoding='ascii').strip()}"
