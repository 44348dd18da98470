"""The two processes behind local mode: som-agent and the kubelet stand-in."""

import dataclasses
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from som_api import SomError
from som_device_plugin.local import layout

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
LOOK_EVERY_S: Final = 0.02
ROOM_BYTES: Final = 4 << 20
"""What store, its log and the logs need at least."""

_FLOCK: Final = struct.Struct("hhqqi4x")
_WHOLE_FILE: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

_RECORD_PID: Final = 'echo $$ > "$0" && exec "$@"'
"""Done by the new process, so that whoever started it may be killed at any point."""


class DaemonFailed(SomError):
    """A background process did not start, or did not end."""


@dataclasses.dataclass(frozen=True)
class Daemon:
    """A background process. It lives exactly as long as its lock file is locked."""

    title: str
    name: str
    command: tuple[str, ...]
    state_dir: layout.StateDir

    @property
    def log(self) -> Path:
        return self.state_dir.path / f"{self.name}.log"

    def runs(self) -> bool:
        """Whether the process lives."""
        try:
            with self._lock_file.open("rb") as lock:
                return _is_locked(lock.fileno())
        except FileNotFoundError:
            return False

    def start(self) -> None:
        """Start the process unless it runs."""
        with self._lock_file.open("ab") as lock, self.log.open("ab") as log:
            if _lock(lock.fileno()):
                self._pid_file.unlink(missing_ok=True)
                process = subprocess.Popen(
                    ["sh", "-c", _RECORD_PID, str(self._pid_file), *self.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                    pass_fds=[lock.fileno()],
                )
                # It outlives this command: nothing to wait for, and nothing to warn of.
                process.returncode = 0

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready()`.

        Raises:
            DaemonFailed: the process ended, or was not ready in time; with its last words.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DaemonFailed(
                    f"{self.title} was not ready within {START_TIMEOUT_S:.0f} s: "
                    f"{self.last_words()}; see {self.log}"
                )
            time.sleep(LOOK_EVERY_S)

    def check(self) -> None:
        """Raises DaemonFailed, with its last words, when the process has ended."""
        if not self.runs():
            raise DaemonFailed(f"{self.title} has ended: {self.last_words()}; see {self.log}")

    def last_words(self) -> str:
        """What it wrote last, for a message."""
        if (free := shutil.disk_usage(self.state_dir.path).free) < ROOM_BYTES:
            return f"the disk of {self.state_dir.path} is full ({free} bytes free); make room"
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        """End the process and wait for it; SIGKILL after a while."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            told = False
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while self.runs() and time.monotonic() < deadline:
                told = told or self._tell(number)
                time.sleep(LOOK_EVERY_S)
        if self.runs():
            raise DaemonFailed(f"{self.title} (pid {self._pid()}) does not end; see it in ps")

    def _tell(self, number: signal.Signals) -> bool:
        """Send a signal, to this process and never to a later one with its pid."""
        if not (pid := self._pid()):
            return False
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # While the lock is held, its holder lives and has the pid that it recorded.
            if lives := self.runs():
                signal.pidfd_send_signal(process, number)
            return lives
        except ProcessLookupError:
            return False
        finally:
            os.close(process)

    @property
    def _lock_file(self) -> Path:
        return self.state_dir.path / f"{self.name}.runs"

    @property
    def _pid_file(self) -> Path:
        return self.state_dir.path / f"{self.name}.pid"

    def _pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text(encoding="ascii") or 0) or None
        except FileNotFoundError:
            return None


def stand_in(state_dir: layout.StateDir) -> Daemon:
    """The kubelet stand-in of `state_dir`."""
    return _daemon("the kubelet stand-in", "kubelet", "stand_in.kubelet", state_dir)


def agent(state_dir: layout.StateDir) -> Daemon:
    """The agent of `state_dir`."""
    return _daemon("the agent", "agent", "agent", state_dir)


def _daemon(title: str, name: str, module: str, state_dir: layout.StateDir) -> Daemon:
    command = (sys.executable, "-m", f"som_device_plugin.local.{module}", str(state_dir.path))
    return Daemon(title, name, command, state_dir)


# Locks of the open file description: a child inherits them, and one can ask without taking them.


def _lock(descriptor: int) -> bool:
    """Take the lock; False when another process has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_locked(descriptor: int) -> bool:
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    kind, *_ = _FLOCK.unpack(answer)
    return bool(kind != fcntl.F_UNLCK)
