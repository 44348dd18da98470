"""Waits for what the agent reports, and shows a person how far it is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from som_api import SomError, v1alpha1
from som_device_plugin.local import layout, orders
from som_device_plugin.local.command import background, output, progress

STALLED_S: Final = 120.0
"""Without news from the agent for so long, `up` and `down` give up."""

WORTH_SAYING_S: Final = 5.0
LOOK_EVERY_S: Final = 0.05

_Seen = TypeVar("_Seen")


class Stalled(SomError):
    """The agent has not said anything for long."""


def wait(
    look: Callable[[v1alpha1.SomNodeStatus], _Seen | None],
    state_dir: layout.StateDir,
    *,
    generation: int,
    what: str,
    out: output.Output,
    total_bytes: int = 0,
    done_bytes: Callable[[int], int] = lambda reserved_bytes: 0,
) -> _Seen:
    """Start both processes; what `look` sees in a report on the order of `generation`.

    `done_bytes` of `total_bytes`, from the bytes reserved by the last report, is what a bar shows.

    Raises:
        Stalled: the agent has not reported anything new for long.
        ProcessFailed: the agent or the stand-in has ended.
    """
    log = state_dir.agent_log
    started = background.start(state_dir)
    told, heard, heard_at = False, _written_ns(state_dir.status), time.monotonic()
    with progress.bar(what, total_bytes, quiet=out.as_json) as show:
        while True:
            status = orders.read_status(state_dir)
            if status and status.observed_generation == generation:
                seen = look(status)
                if seen is not None:
                    return seen
            _check(started, state_dir)
            show(done_bytes(reserved_bytes(status)))
            if (now := _written_ns(state_dir.status)) != heard:
                told, heard, heard_at = False, now, time.monotonic()
            silent_s = time.monotonic() - heard_at
            if silent_s > STALLED_S:
                raise Stalled(
                    f"{what}: the agent has said nothing new for {STALLED_S:.0f} s; its last words "
                    f"are: {background.last_words(log)}; see {log}"
                )
            if silent_s > WORTH_SAYING_S and not told:
                out.note(f"{what}: waiting for the agent; what it does is in {log}")
                told = True
            time.sleep(LOOK_EVERY_S)


def reserved_bytes(status: v1alpha1.SomNodeStatus | None) -> int:
    """What all pools have."""
    return sum(pool.capacity for pool in status.pools) if status else 0


def _check(started: background.Agent, state_dir: layout.StateDir) -> None:
    now = background.agent(state_dir)
    if now is None:
        raise background.ended(background.STAND_IN, state_dir.stand_in_log)
    if now.ended != started.ended:
        raise background.ended(background.AGENT, state_dir.agent_log)


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
