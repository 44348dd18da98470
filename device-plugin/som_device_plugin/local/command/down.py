"""`som local down`: everything back to the machine."""

import contextlib
import sqlite3

from som_api import SomError
from som_device_plugin.drivers.kernel import control, pool
from som_device_plugin.linux import cgroups
from som_device_plugin.local import layout, orders, programs
from som_device_plugin.local.command import background, output, place, waiting


class NotReleased(SomError):
    """The pool could not be given back; says what holds it."""


def down(state_dir: layout.StateDir, out: output.Output, *, force: bool) -> int:
    """Give everything back and leave the machine as it was: the bytes. Safe to repeat.

    Raises:
        NotReleased: programs run, or somebody still holds memory.
        SomError: a process of local mode failed.
    """
    if not state_dir.lock.exists():
        return 0
    hierarchy = place.hierarchy()
    with place.alone(state_dir, out):
        return give_back(state_dir, hierarchy, out, force=force)


def give_back(
    state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy, out: output.Output, *, force: bool
) -> int:
    """As `down`, for who works alone."""
    if _holds_nothing(state_dir):
        with background.stopped(state_dir):
            # One that was about to reserve may have done so meanwhile.
            if _holds_nothing(state_dir):
                place.remove_traces(state_dir, hierarchy)
                return 0
    held_bytes = _release(state_dir, hierarchy, out, force=force)
    with background.stopped(state_dir):
        place.remove_traces(state_dir, hierarchy)
    return held_bytes


def _release(
    state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy, out: output.Output, *, force: bool
) -> int:
    """Have the agent give back all it has: the bytes."""
    background.start(state_dir)
    _end_programs(state_dir, force=force)
    held_bytes = waiting.reserved_bytes(orders.read_status(state_dir))
    try:
        waiting.wait(
            lambda status: None if status.pools else True,
            state_dir,
            generation=orders.write(state_dir, (), hierarchy),
            what="giving back",
            out=out,
            total_bytes=held_bytes,
            done_bytes=lambda reserved_bytes: held_bytes - reserved_bytes,
        )
    except waiting.Stalled as stalled:
        raise NotReleased(_why_not_released(state_dir)) from stalled
    return held_bytes


def _holds_nothing(state_dir: layout.StateDir) -> bool:
    """Whether there is nothing to give back: then no agent is needed, and perhaps none can start.

    The agent's store records what it takes before it does so; a pool in som.ko is its own record.
    """
    if pool.of_agent(control.Module(), state_dir.path):
        return False
    store = state_dir.path / "som.db"
    if not store.exists() or store.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as db:
            return all(
                db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is None
                for table in ("pool_pages", "unbound_devices", "carved_blocks")
            )
    except sqlite3.Error:
        # The agent knows what to do, or says why it does not.
        return False


def _end_programs(state_dir: layout.StateDir, *, force: bool) -> None:
    names = [pod.name for pod in programs.read(state_dir)]
    if names and not force:
        raise NotReleased(
            f"programs run with som memory: {', '.join(names)}; end them, or use "
            "`som local down --force`"
        )
    try:
        background.ask(state_dir, end="all")
    except OSError as error:
        raise NotReleased(
            f"ending programs: {background.STAND_IN} did not answer ({error}); see "
            f"{state_dir.stand_in_log}, then run `som local down` again"
        ) from error


def _why_not_released(state_dir: layout.StateDir) -> str:
    status = orders.read_status(state_dir)
    whys = [
        f"{each.name}: {orders.ready(each).message}" for each in (status.pools if status else ())
    ]
    return (
        "not everything was given back, and the agent has said nothing new for "
        f"{waiting.STALLED_S:.0f} s: {'; '.join(whys) or 'it does not report'}; see "
        f"{state_dir.agent_log}, then run `som local down` again"
    )
