"""`som local status`: the pool and its programs."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

from som_api import v1alpha1
from som_device_plugin.local import layout, orders, programs
from som_device_plugin.local.command import background, output

_AS_IT_SHOULD_BE: Final = frozenset({"Reserved", "AsExpected"})


@dataclasses.dataclass(frozen=True)
class Found:
    """What is there. `ordered` are the pools of the last `up`, `node` what the agent last said."""

    state_dir: layout.StateDir
    agent: background.Agent | None
    ordered: Sequence[v1alpha1.NodePool]
    node: v1alpha1.SomNodeStatus | None
    running: Sequence[programs.Program]

    @property
    def pools(self) -> Sequence[v1alpha1.PoolStatus]:
        return self.node.pools if self.node else ()

    @property
    def stand_in_runs(self) -> bool:
        return self.agent is not None

    @property
    def agent_runs(self) -> bool:
        return self.agent is not None and self.agent.pid != 0

    @property
    def exit_code(self) -> int:
        """OK, PARTLY, or FAILED where programs cannot start at all."""
        if not self.agent_runs or not self.pools:
            return output.FAILED
        is_full = all(orders.ready(pool).status == "True" for pool in self.pools)
        return output.OK if is_full else output.PARTLY


def look(state_dir: layout.StateDir) -> Found:
    """What is there now."""
    order = orders.read(state_dir)
    return Found(
        state_dir=state_dir,
        agent=background.agent(state_dir),
        ordered=order.spec.pools if order else (),
        node=orders.read_status(state_dir),
        running=programs.read(state_dir),
    )


def fields(found: Found) -> dict[str, Any]:
    """Everything that is known, for scripts."""
    return {
        "exit_code": found.exit_code,
        "agent_runs": found.agent_runs,
        "stand_in_runs": found.stand_in_runs,
        "ordered": [
            {"pool": pool.name, "unit": pool.unit, "capacity_bytes": pool.capacity}
            for pool in found.ordered
        ],
        "pools": [
            {
                "pool": pool.name,
                "unit": pool.unit,
                "capacity_bytes": pool.capacity,
                "allocated_bytes": pool.allocated,
                "free_bytes": pool.free,
                "numa": [
                    {"node": share.node, "capacity_bytes": share.capacity} for share in pool.numa
                ],
                "ready": _readiness(pool, found)[0],
                "reason": _readiness(pool, found)[1],
            }
            for pool in found.pools
        ],
        "programs": [
            {
                "pod": pod.name,
                "unit": pod.request.unit,
                "units": pod.request.count,
                "size_bytes": pod.request.size_bytes,
                "ticket": pod.ticket,
            }
            for pod in found.running
        ],
        "messages": list(_messages(found)),
    }


def text(found: Found) -> str:
    """Tables and sentences for people, the same on a terminal and in a pipe."""
    size = v1alpha1.format_bytes
    pools = [
        (
            *(pool.name, pool.unit, size(pool.capacity), size(pool.allocated), size(pool.free)),
            *_readiness(pool, found),
        )
        for pool in found.pools
    ]
    running = [
        (pod.name, f"{pod.request.count} x {pod.request.unit}", size(pod.request.size_bytes))
        for pod in found.running
    ]
    lines = [
        *_table("POOL UNIT CAPACITY ALLOCATED FREE READY REASON", pools),
        *_table("PROGRAM UNITS MEMORY", running),
        *_messages(found),
    ]
    return "\n".join(lines)


def _messages(found: Found) -> Iterator[str]:
    if not found.ordered and not found.pools:
        yield f"no pool is up in {found.state_dir.path}; `som local up -f FILE` makes one"
        return
    if not found.stand_in_runs:
        log = found.state_dir.stand_in_log
        yield f"{background.STAND_IN} does not run: `som local up -f FILE` starts it; see {log}"
    elif not found.agent_runs:
        yield f"{background.AGENT} has ended and is started again; see {found.state_dir.agent_log}"
    reported = {pool.name for pool in found.pools}
    for order in found.ordered:
        if order.name not in reported:
            yield (
                f"pool {order.name}: {v1alpha1.format_bytes(order.capacity)} ordered, nothing "
                "reported yet"
            )
    # The node's Ready names the pools that are not; they say more themselves.
    conditions = [c for c in (found.node.conditions if found.node else ()) if c.type != "Ready"]
    for condition in (*conditions, *(c for pool in found.pools for c in pool.conditions)):
        if condition.message and condition.reason not in _AS_IT_SHOULD_BE:
            yield condition.message


def _readiness(pool: v1alpha1.PoolStatus, found: Found) -> tuple[str, str]:
    """Status and reason of Ready; what an agent said that is gone may be no longer true."""
    ready = orders.ready(pool)
    return (ready.status, ready.reason) if found.agent_runs else ("Unknown", "AgentGone")


def _table(header: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    table = [header.split(), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
