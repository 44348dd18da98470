"""`som local up` and `som local down`: a pool on this machine, and its end."""

import contextlib
import dataclasses
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from som_api import SomError, v1alpha1
from som_device_plugin.linux import cgroups
from som_device_plugin.local import daemons, layout, orders, programs
from som_device_plugin.local.command import output, place, progress

STALLED_S: Final = 120.0
"""Without news from the agent for so long, `up` and `down` give up."""

WAIT_WORTH_SAYING_S: Final = 5.0
CONTROL_TIMEOUT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.05


class NotReleased(SomError):
    """The pool could not be given back; says what holds it."""


class Stalled(SomError):
    """The agent has not said anything for long."""


_Seen = TypeVar("_Seen")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `up` achieved: OK, FAILED or PARTLY, and why."""

    exit_code: int
    pool: str
    capacity_bytes: int
    wanted_bytes: int
    page_bytes: int
    ready_s: float
    reason: str
    message: str

    def fields(self) -> dict[str, str | int | float]:
        """For scripts: see docs/how-to/work-without-kubernetes.md."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        pages = self.capacity_bytes // self.page_bytes
        text = (
            f"pool {self.pool}: {v1alpha1.format_bytes(self.capacity_bytes)} of "
            f"{v1alpha1.format_bytes(self.wanted_bytes)} reserved, {pages} pages of "
            f"{v1alpha1.format_bytes(self.page_bytes)}, in {self.ready_s:.2f} s"
        )
        if self.exit_code == output.OK:
            return text
        if self.exit_code == output.FAILED:
            return f"{text}: {self.message}; the machine is as it was before"
        return (
            f"{text}: {self.message}; the agent goes on trying, `som local down` gives back what "
            "there is"
        )


def up(pool: v1alpha1.SomPool, state_dir: layout.StateDir, out: output.Output) -> Outcome:
    """Have this machine reserve `pool`, in place of what an earlier `up` ordered.

    Interrupted, or without any memory reserved, it first orders again what was ordered before.

    Raises:
        Wrong: something that the machine lacks; nothing was changed.
        SomError: a process of local mode failed.
    """
    hierarchy = place.check_machine(pool, state_dir)
    begun = time.monotonic()
    with place.alone(state_dir, out), contextlib.ExitStack() as undo:
        before = orders.read(state_dir)
        undo.callback(_go_back, state_dir, hierarchy, before.spec.pools if before else (), out)
        if not daemons.agent(state_dir).runs():
            # What an agent that is gone said is no answer to this order.
            state_dir.status.unlink(missing_ok=True)
        generation = orders.write(state_dir, [orders.of(pool)], hierarchy)
        _start_stand_in(state_dir)
        daemons.agent(state_dir).start()
        status = _wait(
            lambda: _settled(state_dir, generation, pool.metadata.name),
            state_dir,
            what=f"reserving {pool.metadata.name}",
            total_bytes=pool.spec.capacity,
            done_bytes=lambda: _reserved_bytes(state_dir),
            out=out,
        )
        if status.capacity:
            undo.pop_all()
    ready = _ready(status)
    failed_or_partly = output.PARTLY if status.capacity else output.FAILED
    return Outcome(
        exit_code=output.OK if ready.status == "True" else failed_or_partly,
        pool=pool.metadata.name,
        capacity_bytes=status.capacity,
        wanted_bytes=pool.spec.capacity,
        page_bytes=pool.spec.source.page_bytes,
        ready_s=time.monotonic() - begun,
        reason=ready.reason,
        message=ready.message,
    )


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
        return _give_back(state_dir, hierarchy, out, force=force)


def _go_back(
    state_dir: layout.StateDir,
    hierarchy: cgroups.Hierarchy,
    pools: tuple[v1alpha1.NodePool, ...],
    out: output.Output,
) -> None:
    """Have what an earlier `up` ordered, or nothing when there was none."""
    try:
        if not pools:
            _give_back(state_dir, hierarchy, out, force=False)
            return
        generation = orders.write(state_dir, pools, hierarchy)
        _start_stand_in(state_dir)
        daemons.agent(state_dir).start()
        [pool] = pools
        _wait(
            lambda: _settled(state_dir, generation, pool.name),
            state_dir,
            what=f"going back to what {pool.name} was",
            total_bytes=0,
            done_bytes=lambda: 0,
            out=out,
        )
    except KeyboardInterrupt:
        raise NotReleased(
            "interrupted again, before the machine was as it was; see `som local status`, and "
            "give everything back with `som local down`"
        ) from None


def _give_back(
    state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy, out: output.Output, *, force: bool
) -> int:
    agent, stand_in = daemons.agent(state_dir), daemons.stand_in(state_dir)
    held_bytes = 0
    if _holds_nothing(state_dir):
        # Nor may an agent that is about to start begin to.
        agent.stop()
    if not _holds_nothing(state_dir):
        _start_stand_in(state_dir)
        _end_programs(state_dir, force=force)
        held_bytes = _reserved_bytes(state_dir)
        generation = orders.write(state_dir, (), hierarchy)
        agent.start()
        try:
            _wait(
                lambda: _released(state_dir, generation),
                state_dir,
                what="giving back",
                total_bytes=held_bytes,
                done_bytes=lambda: held_bytes - _reserved_bytes(state_dir),
                out=out,
            )
        except Stalled as stalled:
            raise NotReleased(_why_not_released(state_dir)) from stalled
    agent.stop()
    stand_in.stop()
    place.remove_traces(state_dir, hierarchy)
    return held_bytes


def _holds_nothing(state_dir: layout.StateDir) -> bool:
    """Whether the agent's store records no page, which it does before it reserves one.

    Then no agent is needed to give any back; perhaps none can start here.
    """
    store = state_dir.path / "som.db"
    if not store.exists() or store.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT 1 FROM pool_pages LIMIT 1").fetchone() is None
    except sqlite3.Error:
        # The agent knows what to do, or says why it does not.
        return False


def _start_stand_in(state_dir: layout.StateDir) -> None:
    stand_in = daemons.stand_in(state_dir)

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(state_dir.control_socket)) == 0

    if stand_in.runs() and not (
        answers()
        and state_dir.registration_socket.exists()
        and state_dir.pod_resources_socket.exists()
    ):
        # Something has removed its sockets. The next one serves again, and knows all programs.
        stand_in.stop()
    stand_in.start()
    stand_in.wait_until(answers)


def _wait(
    look: Callable[[], _Seen | None],
    state_dir: layout.StateDir,
    *,
    what: str,
    total_bytes: int,
    done_bytes: Callable[[], int],
    out: output.Output,
) -> _Seen:
    """What `look` sees once it sees something.

    Raises:
        Stalled: the agent has not reported anything new for long.
        DaemonFailed: the agent has ended.
    """
    agent = daemons.agent(state_dir)
    told, heard, heard_at = False, _written_ns(state_dir.status), time.monotonic()
    with progress.bar(what, total_bytes, quiet=out.as_json) as show:
        while (seen := look()) is None:
            agent.check()
            show(done_bytes())
            if (now := _written_ns(state_dir.status)) != heard:
                told, heard, heard_at = False, now, time.monotonic()
            silent_s = time.monotonic() - heard_at
            if silent_s > STALLED_S:
                raise Stalled(
                    f"{what}: the agent has said nothing new for {STALLED_S:.0f} s; its last words "
                    f"are: {agent.last_words()}; see {agent.log}"
                )
            if silent_s > WAIT_WORTH_SAYING_S and not told:
                out.note(f"{what}: waiting for the agent; what it does is in {agent.log}")
                told = True
            time.sleep(LOOK_EVERY_S)
    return seen


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _settled(state_dir: layout.StateDir, generation: int, name: str) -> v1alpha1.PoolStatus | None:
    """The pool's status once the agent has done what it can; None before."""
    status = orders.read_status(state_dir)
    if status is None or status.observed_generation != generation:
        return None
    return next(
        (pool for pool in status.pools if pool.name == name and _ready(pool).reason != "Reserving"),
        None,
    )


def _ready(pool: v1alpha1.PoolStatus) -> v1alpha1.Condition:
    return next(condition for condition in pool.conditions if condition.type == "Ready")


def _reserved_bytes(state_dir: layout.StateDir) -> int:
    status = orders.read_status(state_dir)
    return sum(pool.capacity for pool in status.pools) if status else 0


def _end_programs(state_dir: layout.StateDir, *, force: bool) -> None:
    names = [pod.name for pod in programs.read(state_dir)]
    if names and not force:
        raise NotReleased(
            f"programs run with som memory: {', '.join(names)}; end them, or use "
            "`som local down --force`"
        )
    stand_in = daemons.stand_in(state_dir)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(CONTROL_TIMEOUT_S)
            control.connect(str(state_dir.control_socket))
            control.sendall(b'{"end": "all"}\n')
            control.recv(1)
    except OSError as error:
        raise NotReleased(
            f"ending programs: {stand_in.title} did not answer ({error}); see {stand_in.log}, "
            "then run `som local down` again"
        ) from error


def _released(state_dir: layout.StateDir, generation: int) -> bool | None:
    status = orders.read_status(state_dir)
    is_done = status and status.observed_generation == generation and not status.pools
    return True if is_done else None


def _why_not_released(state_dir: layout.StateDir) -> str:
    status = orders.read_status(state_dir)
    pools = status.pools if status else ()
    whys = [f"{pool.name}: {_ready(pool).message}" for pool in pools]
    return (
        f"not everything was given back, and the agent has said nothing new for {STALLED_S:.0f} s: "
        f"{'; '.join(whys) or 'it does not report'}; see {daemons.agent(state_dir).log}, then run "
        "`som local down` again"
    )
