"""`--watch`: shows an answer again whenever the cluster changes."""

import contextlib
import io
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from som_kubectl import cluster, kubectl

_QUIET_S: Final = 1.0
"""Changes come in crowds: what comes within this time is shown at once."""
_AGAIN_S: Final = 5.0
"""After a watch that ended, and while the cluster does not answer."""
_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"


def show_again(program: kubectl.Kubectl, once: Callable[[], int]) -> int:
    """Print what `once` prints, and again when it has changed; until interrupted.

    A terminal is cleared before; elsewhere the whole answer is printed again. What `once` raises
    at its first time is raised; later it is shown, and tried again.
    """
    changed = queue.SimpleQueue[None]()
    shown = _printed(once)
    _show(shown)
    for collection in (cluster.SOMPOOLS, cluster.SOMNODES, cluster.PODS):
        threading.Thread(
            target=_watch, args=(program, collection, changed), daemon=True, name=collection
        ).start()
    while True:
        changed.get()
        time.sleep(_QUIET_S)
        with contextlib.suppress(queue.Empty):
            while True:
                changed.get_nowait()
        try:
            now = _printed(once)
        except kubectl.Refused as error:
            now = f"error: {error}\n"
        if now != shown:
            shown = now
            _show(shown)


def _printed(once: Callable[[], int]) -> str:
    # The terminal's width is asked of sys.stdout, which is not the terminal meanwhile.
    printed = _Printed(sys.stdout.isatty())
    with contextlib.redirect_stdout(printed):
        once()
    return printed.getvalue()


class _Printed(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def _show(text: str) -> None:
    if sys.stdout.isatty():
        lines = text.splitlines()
        height = shutil.get_terminal_size().lines - 1
        kept = lines if len(lines) <= height else [*lines[: height - 1], "..."]
        sys.stdout.write(_CLEAR + "\n".join(kept) + "\n")
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def _watch(program: kubectl.Kubectl, collection: str, changed: "queue.SimpleQueue[None]") -> None:
    """Put something into `changed` for each change; what may not be watched is polled."""
    while True:
        where = kubectl.path(collection, watch="true", allowWatchBookmarks="true")
        with contextlib.suppress(kubectl.Refused), program.lines("get", "--raw", where) as lines:
            for line in lines:
                if b'"BOOKMARK"' not in line[:40]:
                    changed.put(None)
        time.sleep(_AGAIN_S)
        changed.put(None)
