"""What the agent reports about its node, computed from pools and leases. No I/O."""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from som_api import VERSION, v1alpha1
from som_device_plugin import pools
from som_device_plugin.kubelet import setup
from som_device_plugin.leases import decide, spares, state

_TROUBLE: Final[Mapping[decide.Outcome | state.Event, str]] = {
    decide.Outcome.DAMAGED: "LeaseDamaged",
    decide.Outcome.STRAY: "StrayMount",
    decide.Outcome.HELD: "LeaseHeld",
    state.Event.RESISTS: "LeaseHeld",
    state.Event.MOUNT_LOST: "MountLost",
}
"""Findings that an admin should know of, as reasons of the condition Degraded."""

_POOL_REASONS: Final = {
    (pools.State.RESERVING, 0): ("Reserving", "{capacity} reserved so far"),
    (pools.State.SETTLED, -1): ("PartlyReserved", "{shortfall}"),
    (pools.State.SETTLED, 0): ("Reserved", "{capacity} reserved"),
    (pools.State.SETTLED, 1): (
        "Shrinking",
        "pods hold more than the new capacity; it goes down as they leave",
    ),
    (pools.State.REFUSED, 0): ("Refused", "{why}"),
    (pools.State.BLOCKED, 0): ("", "{why}"),
    (pools.State.RELEASING, 0): ("Releasing", "its memory goes back to the node"),
    (pools.State.HELD, 0): ("Releasing", "{why}"),
    (pools.State.KEPT, 0): ("", "{why}"),
}
"""By state, and whether a settled pool has less than was ordered, as much, or more.

A pool's own reason comes before the one here.
"""

_UNLIMITED_CURE: Final = (
    "mount the hugetlb controller before container runtime and kubelet start, restart both, and "
    "recreate these pods"
)
_NAMED_PODS: Final = 3


def node_status(
    *,
    generation: int | None,
    boot_id: str,
    active: Mapping[str, pools.ActivePool],
    leases: Sequence[state.Lease],
    findings: Iterable[decide.Finding],
    found_setup: setup.Setup,
    pod_names: Mapping[str, str],
    huge_pages: Mapping[int, int],
    memory_bytes: int,
    module: v1alpha1.Module | None,
) -> v1alpha1.SomNodeStatus:
    """The SomNode's status; the reporter adds transition times.

    `pod_names` is by UID; `huge_pages` are the node's bytes by page size, whoever has them;
    `memory_bytes` is its MemTotal, `module` som.ko as it is loaded.
    """
    statuses = tuple(_pool_status(active[name], leases) for name in sorted(active))
    return v1alpha1.SomNodeStatus(
        observed_generation=generation,
        boot_id=boot_id,
        kernel_version=platform.release(),
        agent_version=VERSION,
        module=module,
        memory=memory_bytes,
        pool_names=",".join(status.name for status in statuses),
        capacity=sum(status.capacity for status in statuses),
        allocated=sum(status.allocated for status in statuses),
        pools=statuses,
        huge_pages=tuple(_huge_pages(active.values(), huge_pages)),
        conditions=(
            _ready(active, generation),
            _degraded(findings, leases, generation),
            _blocked(found_setup, generation),
            _pods_unlimited(found_setup, pod_names, generation),
        ),
    )


def allocated_bytes(pool: str, leases: Iterable[state.Lease]) -> int:
    """What starts of `pool` hold, those being released included, and no spare that is to stay."""
    return sum(
        record.start.size_bytes
        for lease in leases
        for record in lease.starts
        if record.start.pool == pool and (lease.ended or not lease.is_spare)
    )


def free_bytes(pool: pools.ActivePool, leases: Sequence[state.Lease]) -> int:
    """What containers can have: free pages, and spares, which are adopted or given up."""
    in_use = sum(
        record.start.size_bytes
        for lease in leases
        for record in lease.starts
        if record.start.pool == pool.name
        and not lease.is_spare
        and record.state is not state.State.RELEASING
    )
    # A spare under way has not taken all of its pages yet.
    most_bytes = max(pool.capacity_bytes - in_use, pool.free_bytes)
    return min(pool.free_bytes + spares.total_bytes(leases, pool.name), most_bytes)


def _pool_status(pool: pools.ActivePool, leases: Sequence[state.Lease]) -> v1alpha1.PoolStatus:
    reason, message = _pool_reason(pool)
    return v1alpha1.PoolStatus(
        name=pool.name,
        generation=pool.order.generation,
        unit=pool.order.unit,
        capacity=pool.capacity_bytes,
        allocated=allocated_bytes(pool.name, leases),
        free=free_bytes(pool, leases),
        whole_free=pool.reserved.whole_free_bytes,
        numa=tuple(
            v1alpha1.NumaShare(node=node, capacity=size_bytes)
            for node, size_bytes in sorted(pool.reserved.node_bytes.items())
            if size_bytes
        ),
        driver=pool.order.driver,
        conditions=(
            _condition(
                pool.order.generation, reason, message, type="Ready", holds=reason == "Reserved"
            ),
        ),
    )


def _pool_reason(pool: pools.ActivePool) -> tuple[str, str]:
    excess = pool.capacity_bytes - pool.order.capacity if pool.state is pools.State.SETTLED else 0
    reason, message = _POOL_REASONS[pool.state, (excess > 0) - (excess < 0)]
    capacity = v1alpha1.format_bytes(pool.capacity_bytes)
    shown = message.format(capacity=capacity, shortfall=pool.reserved.shortfall, why=pool.why)
    return pool.reason or reason, shown


def _ready(active: Mapping[str, pools.ActivePool], generation: int | None) -> v1alpha1.Condition:
    waiting = {name: _pool_reason(p)[0] for name, p in sorted(active.items()) if not p.is_full}
    reason = next(iter(waiting.values()), "Reserved" if active else "NoPools")
    message = ", ".join(f"{name}: {why}" for name, why in waiting.items())
    is_ready = bool(active) and not waiting
    return _condition(generation, reason, message, type="Ready", holds=is_ready)


def _degraded(
    findings: Iterable[decide.Finding], leases: Sequence[state.Lease], generation: int | None
) -> v1alpha1.Condition:
    troubles = [finding for finding in findings if finding.outcome in _TROUBLE]
    owners = {lease.lease_id: f" of {lease.owner}" for lease in leases if lease.owner}
    message = "; ".join(
        f"lease {found.lease_id}{owners.get(found.lease_id, '')}: {found.outcome.value}"
        for found in troubles
    )
    reason = _TROUBLE[troubles[0].outcome] if troubles else "AsExpected"
    return _condition(generation, reason, message, type="Degraded", holds=bool(troubles))


def _blocked(found: setup.Setup, generation: int | None) -> v1alpha1.Condition:
    is_blocked = found.blocked is not None
    why = found.blocked or setup.Blocked("AsExpected", "")
    return _condition(generation, why.reason, why.message, type="Blocked", holds=is_blocked)


def _pods_unlimited(
    found: setup.Setup, pod_names: Mapping[str, str], generation: int | None
) -> v1alpha1.Condition:
    """No reason to refuse: what is reserved for a pool is out of these pods' reach already."""
    uids, reason, message = found.unlimited, "AsExpected", ""
    if uids:
        named = ", ".join(pod_names.get(uid, f"UID {uid}") for uid in uids[:_NAMED_PODS])
        more = f" and {len(uids) - _NAMED_PODS} more" if len(uids) > _NAMED_PODS else ""
        reason = "HugetlbLimitMissing"
        message = (
            f"pods without a hugetlb limit, which can take huge pages that they did not request "
            f"before a pool has reserved them: {named}{more}; {_UNLIMITED_CURE}"
        )
    return _condition(generation, reason, message, type="PodsUnlimited", holds=bool(uids))


def _condition(
    generation: int | None, reason: str, message: str, *, type: str, holds: bool
) -> v1alpha1.Condition:
    return v1alpha1.Condition(
        type=type,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        observed_generation=generation,
    )


def _huge_pages(
    active: Iterable[pools.ActivePool], by_size: Mapping[int, int]
) -> Iterator[v1alpha1.HugePages]:
    """The sizes that pools have pages of."""
    ours: dict[int, int] = {}
    for pool in active:
        if pool.order.source.kind != "HugeTLB":
            continue
        size_bytes = sum(pool.reserved.node_bytes.values())
        ours[pool.page_bytes] = ours.get(pool.page_bytes, 0) + size_bytes
    for page_size, page_bytes in v1alpha1.UNIT_BYTES.items():
        if ours.get(page_bytes):
            yield v1alpha1.HugePages(
                page_size=page_size,
                # Read a moment apart: the pools' are part of the total whatever was read.
                total=max(by_size.get(page_bytes, 0), ours[page_bytes]),
                pools=ours[page_bytes],
            )
