"""The processes behind local mode: the kubelet stand-in, and the agent that it runs."""

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from som_api import SomError
from som_device_plugin.linux import flocks
from som_device_plugin.local import layout, locks

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
ANSWER_TIMEOUT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.02
ROOM_BYTES: Final = 4 << 20
"""What store, its log and the logs need at least."""

STAND_IN: Final = "the kubelet stand-in"
AGENT: Final = "the agent"


class ProcessFailed(SomError):
    """A background process did not start, or did not end."""


@dataclasses.dataclass(frozen=True)
class Agent:
    """The agent's process, 0 while it waits to be started again, and how often it has ended."""

    pid: int
    ended: int


def agent(state_dir: layout.StateDir, *, wish: str = "look") -> Agent | None:
    """What the stand-in says of the agent; None where it does not serve.

    With the wish "start" an agent that has ended starts again at once.
    """
    try:
        return Agent(**json.loads(ask(state_dir, agent=wish)))
    except (OSError, ValueError, TypeError):
        # Nobody serves, or it ended meanwhile, or it is one of som 0.1.0.
        return None


def ask(state_dir: layout.StateDir, **question: Any) -> bytes:
    """The stand-in's answer, until it hangs up; raises OSError where it does not answer."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(ANSWER_TIMEOUT_S)
        control.connect(str(state_dir.control_socket))
        control.sendall(json.dumps(question).encode() + b"\n")
        with control.makefile("rb") as answer:
            return answer.read()


def start(state_dir: layout.StateDir) -> Agent:
    """Have both processes run. Only for the `up` or `down` that works alone.

    Raises:
        ProcessFailed: the stand-in ended, or was not ready in time; with its last words.
    """
    process = None
    if agent(state_dir) is None or not state_dir.sockets_exist():
        # Without its sockets it serves nobody. The next one makes them, and knows all programs.
        with stopped(state_dir):
            pass
        process = _start_stand_in(state_dir)
    deadline = time.monotonic() + START_TIMEOUT_S
    while (running := agent(state_dir, wish="start")) is None:
        if process and process.poll() is not None and not locks.holder(state_dir.stand_in_lock):
            raise ended(STAND_IN, state_dir.stand_in_log)
        if time.monotonic() > deadline:
            raise ProcessFailed(
                f"{STAND_IN} was not ready within {START_TIMEOUT_S:.0f} s: "
                f"{last_words(state_dir.stand_in_log)}; see {state_dir.stand_in_log}"
            )
        time.sleep(LOOK_EVERY_S)
    if process:
        # It outlives this command: nothing to wait for, and nothing to warn of.
        process.returncode = 0
    return running


def _start_stand_in(state_dir: layout.StateDir) -> "subprocess.Popen[bytes]":
    with state_dir.stand_in_log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "som_device_plugin.local.stand_in.kubelet", state_dir.path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )


@contextlib.contextmanager
def stopped(state_dir: layout.StateDir) -> Iterator[None]:
    """Both processes have ended, and inside the block none can start.

    Raises:
        ProcessFailed: the stand-in does not end, though it was killed.
        flocks.LockHeld: its agent does not.
    """
    _end_older(state_dir)
    state_dir.stand_in_lock.touch()
    while True:
        _end_stand_in(state_dir.stand_in_lock)
        # One that was about to start may have been faster.
        if (lock := locks.take(state_dir.stand_in_lock)) is not None:
            break
    try:
        _wait_for_end_of_agent(state_dir.agent_lock)
        yield
    finally:
        os.close(lock)


def _end_stand_in(lock: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        told, deadline = 0, time.monotonic() + STOP_TIMEOUT_S
        while (process := locks.holder(lock)) and time.monotonic() < deadline:
            if process != told:
                _tell(process, number, lock)
                told = process
            time.sleep(LOOK_EVERY_S)
    if process:
        raise ProcessFailed(f"{STAND_IN} (pid {process}) does not end; see it in ps")


def _tell(process: int, number: signal.Signals, lock: Path) -> None:
    """Send a signal, to this process and never to a later one with its pid."""
    with contextlib.suppress(ProcessLookupError), _opened(process) as descriptor:
        # While the lock is held, its holder lives.
        if locks.holder(lock) == process:
            signal.pidfd_send_signal(descriptor, number)


def _wait_for_end_of_agent(lock: Path) -> None:
    """The kernel kills it with its stand-in, but a moment later."""
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        flocks.take(file.fileno(), str(lock), timeout_s=STOP_TIMEOUT_S)


def _end_older(state_dir: layout.StateDir) -> None:
    """End stand-in and agent of som 0.1.0, which have written down their pids."""
    for path in state_dir.path.glob("*.pid"):
        with contextlib.suppress(ValueError, OSError), _opened(int(path.read_text())) as descriptor:
            command = Path(f"/proc/{path.read_text().strip()}/cmdline").read_bytes()
            if os.fsencode(state_dir.path) in command:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                select.select([descriptor], [], [], STOP_TIMEOUT_S)
        path.unlink()


@contextlib.contextmanager
def _opened(process: int) -> Iterator[int]:
    descriptor = os.pidfd_open(process)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ended(title: str, log: Path) -> ProcessFailed:
    """The error that a process has ended, with its last words."""
    return ProcessFailed(f"{title} has ended: {last_words(log)}; see {log}")


def last_words(log: Path) -> str:
    """What the process of this log wrote last, for a message."""
    if (free := shutil.disk_usage(log.parent).free) < ROOM_BYTES:
        return f"the disk of {log.parent} is full ({free} bytes free); make room"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1] if lines else "it said nothing"
