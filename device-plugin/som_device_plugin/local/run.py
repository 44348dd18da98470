"""`som local run`: a program with som memory at /dev/som, for as long as it runs."""

import contextlib
import dataclasses
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from som_device_plugin import SomError
from som_device_plugin.local import container, layout

WAIT_WORTH_SHOWING_S: Final = 0.3


class CannotRun(SomError):
    """The program was not started; says why."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What was asked for on the command line."""

    command: Sequence[str]
    resource: str
    count: str
    user: tuple[int, int] | None
    as_json: bool


def run(order: Order, state_dir: layout.StateDir) -> int:
    """Admit, start, wait: the program's exit status.

    Raises:
        CannotRun: the program was not started.
    """
    with _connect(state_dir) as connection:
        request = {
            "program": Path(order.command[0]).name,
            "resource": order.resource,
            "count": order.count,
        }
        connection.sendall(json.dumps(request).encode() + b"\n")
        ready = _wait_until_ready(connection, order)
        if order.as_json:
            shown = ("pod", "bytes", "allocate_s", "pre_start_s", "ready_s")
            _print_json(event="ready", **{key: ready[key] for key in shown})
        status = container.run(
            container.Container(
                command=order.command,
                env=ready["env"],
                mounts=ready["mounts"],
                cgroup=ready["cgroup"],
                hidden=state_dir.path,
                staging=state_dir.kubelet,
                user=order.user,
            )
        )
        if order.as_json:
            _print_json(event="exited", status=status)
        return status


def _connect(state_dir: layout.StateDir) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(state_dir.control_socket))
    except OSError as error:
        connection.close()
        if isinstance(error, PermissionError):
            error.filename = str(state_dir.control_socket)
            raise
        raise CannotRun(
            f"no pool is up in {state_dir.path} ({error.strerror}); run "
            "`som local up -f FILE` first"
        ) from error
    return connection


def _wait_until_ready(connection: socket.socket, order: Order) -> dict[str, Any]:
    """Follow the stand-in's messages until the lease is real."""
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        show = None if order.as_json else _Waiting(order)
        if show:
            stack.callback(show.stop)
        for message in _messages(connection, show):
            match message["event"]:
                case "ready":
                    return {**message, "ready_s": time.monotonic() - begun}
                case "refused":
                    raise CannotRun(message["message"])
                case "waiting" if show:
                    show.say(message["message"])
                case _ if order.as_json:
                    _print_json(**message)
    raise CannotRun("the kubelet stand-in has ended; run `som local up` again")


def _messages(connection: socket.socket, show: "_Waiting | None") -> Iterator[Mapping[str, Any]]:
    connection.settimeout(WAIT_WORTH_SHOWING_S)
    pending = b""
    while True:
        try:
            received = connection.recv(65536)
        except TimeoutError:
            if show:
                show.begin()
            connection.settimeout(None)
            continue
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        yield from map(json.loads, lines)


class _Waiting:
    """A line on the terminal that moves while a person waits."""

    def __init__(self, order: Order) -> None:
        self._text = f"preparing {order.count} of {order.resource}"
        self._progress: Any = None

    def begin(self) -> None:
        # rich takes 0.1 s to import, longer than most starts take.
        from rich import console, progress

        columns = (
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.TimeElapsedColumn(),
        )
        to_stderr = console.Console(stderr=True)
        self._progress = progress.Progress(*columns, console=to_stderr, transient=True)
        if to_stderr.is_terminal:
            self._progress.start()
        self._progress.add_task(self._text, total=None)

    def say(self, text: str) -> None:
        if self._progress is None:
            self.begin()
        if self._progress.console.is_terminal:
            self._progress.update(self._progress.task_ids[0], description=text)
        elif text != self._text:
            print(text, file=sys.stderr)
        self._text = text

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _print_json(**message: Any) -> None:
    print(json.dumps(message), file=sys.stderr, flush=True)
