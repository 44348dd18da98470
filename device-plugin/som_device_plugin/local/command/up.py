"""`som local up`: a pool on this machine."""

import contextlib
import dataclasses
import time

from som_api import v1alpha1
from som_device_plugin.linux import cgroups
from som_device_plugin.local import layout, orders
from som_device_plugin.local.command import background, down, output, place, waiting


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `up` achieved: OK, FAILED or PARTLY, and why."""

    exit_code: int
    pool: str
    capacity_bytes: int
    wanted_bytes: int
    page_bytes: int
    driver: str
    ready_s: float
    reason: str
    message: str

    def fields(self) -> dict[str, str | int | float]:
        """For scripts: see docs/how-to/work-without-kubernetes.md."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        pages = self.capacity_bytes // self.page_bytes
        what = "" if self.driver == "Kernel" else f"{pages} pages of {_shown(self.page_bytes)}, "
        text = (
            f"pool {self.pool}: {_shown(self.capacity_bytes)} of {_shown(self.wanted_bytes)} "
            f"reserved, {what}in {self.ready_s:.2f} s"
        )
        if self.exit_code == output.OK:
            return text
        if self.exit_code == output.FAILED:
            return f"{text}: {self.message}; the machine is as it was before"
        return (
            f"{text}: {self.message}; the agent goes on trying, `som local down` gives back what "
            "there is"
        )


_shown = v1alpha1.format_bytes


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
        running = background.agent(state_dir)
        if not (running and running.pid):
            # What an agent that is gone said is no answer to this order.
            state_dir.status.unlink(missing_ok=True)
        ordered = v1alpha1.NodePool.of(pool)
        status = _have(ordered, state_dir, hierarchy, out, what=f"reserving {ordered.name}")
        if status.capacity:
            undo.pop_all()
    ready = orders.ready(status)
    failed_or_partly = output.PARTLY if status.capacity else output.FAILED
    return Outcome(
        exit_code=output.OK if ready.status == "True" else failed_or_partly,
        pool=ordered.name,
        capacity_bytes=status.capacity,
        wanted_bytes=ordered.capacity,
        page_bytes=pool.spec.source.page_bytes,
        driver=ordered.driver,
        ready_s=time.monotonic() - begun,
        reason=ready.reason,
        message=ready.message,
    )


def _have(
    ordered: v1alpha1.NodePool,
    state_dir: layout.StateDir,
    hierarchy: cgroups.Hierarchy,
    out: output.Output,
    *,
    what: str,
) -> v1alpha1.PoolStatus:
    """Order one pool: its status once the agent has done what it can."""

    def settled(status: v1alpha1.SomNodeStatus) -> v1alpha1.PoolStatus | None:
        found = (pool for pool in status.pools if pool.name == ordered.name)
        return next((pool for pool in found if orders.ready(pool).reason != "Reserving"), None)

    return waiting.wait(
        settled,
        state_dir,
        generation=orders.write(state_dir, [ordered], hierarchy),
        what=what,
        out=out,
        total_bytes=ordered.capacity,
        done_bytes=lambda reserved_bytes: reserved_bytes,
    )


def _go_back(
    state_dir: layout.StateDir,
    hierarchy: cgroups.Hierarchy,
    pools: tuple[v1alpha1.NodePool, ...],
    out: output.Output,
) -> None:
    """Have what an earlier `up` ordered, or nothing when there was none."""
    try:
        if not pools:
            down.give_back(state_dir, hierarchy, out, force=False)
        for pool in pools:
            what = f"going back to what {pool.name} was"
            _have(pool, state_dir, hierarchy, out, what=what)
    except KeyboardInterrupt:
        raise down.NotReleased(
            "interrupted again, before the machine was as it was; see `som local status`, and "
            "give everything back with `som local down`"
        ) from None
