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

from som_api import SomError
from som_device_plugin.local import container, layout, units, users
from som_device_plugin.local.command import output

WAIT_WORTH_SHOWING_S: Final = 0.3


class CannotRun(SomError):
    """The program was not started; says why."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What was asked for on the command line."""

    command: Sequence[str]
    request: units.Request
    user: users.User | None


def run(order: Order, state_dir: layout.StateDir, out: output.Output) -> int:
    """Admit, start, wait: the program's exit status.

    Raises:
        CannotRun: the program was not started.
    """
    with _connect(state_dir) as connection:
        request = {
            "program": Path(order.command[0]).name,
            "resource": order.request.resource,
            "count": str(order.request.count),
        }
        ready = _wait_until_ready(connection, request, order, out)
        shown = ("pod", "allocate_s", "pre_start_s", "ready_s")
        size_bytes = order.request.size_bytes
        out.event("ready", size_bytes=size_bytes, **{key: ready[key] for key in shown})
        status = container.run(
            container.Container(
                command=order.command,
                edits=ready["edits"],
                cgroup=ready["cgroup"],
                hidden=state_dir.path,
                staging=state_dir.kubelet,
                user=order.user,
            )
        )
        out.event("exited", exit_code=status)
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
            f"no pool is up in {state_dir.path} ({error.strerror or error}); run "
            "`som local up -f FILE` first"
        ) from error
    return connection


def _wait_until_ready(
    connection: socket.socket, request: Mapping[str, str], order: Order, out: output.Output
) -> dict[str, Any]:
    """Ask the stand-in, and follow its messages until the lease is real."""
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        show = None if out.as_json else _Waiting(order)
        if show:
            stack.callback(show.stop)
        # The stand-in may end at any moment: it hangs up, or the kernel resets the connection.
        with contextlib.suppress(ConnectionError):
            connection.sendall(json.dumps(request).encode() + b"\n")
            for message in _messages(connection, show):
                match message["event"]:
                    case "ready":
                        return {**message, "ready_s": time.monotonic() - begun}
                    case "refused":
                        raise CannotRun(message["message"])
                    case "waiting" if show:
                        show.say(message["message"])
                    case event:
                        out.event(event, **{k: v for k, v in message.items() if k != "event"})
    raise CannotRun("the kubelet stand-in has ended; run `som local up -f FILE` again")


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
    """A line on the terminal that moves while a person waits; sentences anywhere else."""

    def __init__(self, order: Order) -> None:
        self._text = f"preparing {order.request.count} of {order.request.resource}"
        self._progress: Any = None

    def begin(self) -> None:
        if not sys.stderr.isatty():
            return
        # rich takes 0.1 s to import, longer than most starts take.
        from rich import console, progress

        columns = (
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.TimeElapsedColumn(),
        )
        self._progress = progress.Progress(
            *columns, console=console.Console(stderr=True), transient=True
        )
        self._progress.start()
        self._progress.add_task(self._text, total=None)

    def say(self, text: str) -> None:
        if self._progress is None:
            self.begin()
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], description=text)
        elif text != self._text:
            print(text, file=sys.stderr, flush=True)
        self._text = text

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
