"""What to do about leases, decided from three views: store, kernel, pods. No I/O.

Release needs two proofs, and silence is none: the synced pod source says that the owner's UID is
gone or terminal, and kubelet's PodResources answers, names the agent's own pod, and does not list
the ticket for the owner any more. A pod deleted by force is gone for the API server while its
container runs; kubelet's answer after a restart is empty while the API server is away.

Whatever is found has a name. A `state.Event` has happened to a start, and the table of `state`
says what follows; an `Outcome` changes nothing, and is only told.
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from som_device_plugin import seams
from som_device_plugin.leases import state


class Outcome(enum.Enum):
    """What was found about a lease or one of its starts, and is left as it is."""

    UNBOUND = "named and not started yet: holds nothing"
    SPARE = "built ahead, and nobody's yet"
    KEPT = "its pod is gone: kept for the successor"
    IN_USE = "its owner lives"
    CONTAINER_RUNS = "the pod is gone, kubelet still lists its container: kept"
    UNPROVEN = "no information about its owner: kept"
    DAMAGED = "pages of it are missing: its container cut them off, or its cgroup was removed"
    HELD = "released, and somebody still holds its pages: not offered"
    OLD_CONTENT = (
        "its container restarted while no agent served the node: it found its own old content"
    )
    STRAY = "a mount or a lease of som that no record names: kept, and reported"


@dataclasses.dataclass(frozen=True)
class PodView:
    """What is known about pods. `resources` is None when kubelet did not answer."""

    synced: bool
    live_uids: frozenset[seams.PodUid]
    resources: seams.PodResources | None
    own_pod: str
    running: Mapping[tuple[seams.PodUid, str], float] = dataclasses.field(default_factory=dict)
    restarts: Mapping[tuple[seams.PodUid, str], float] = dataclasses.field(default_factory=dict)
    """(UID, container) that runs -> when it started, and the one before it ended: `seams.Pod`."""


@dataclasses.dataclass(frozen=True)
class KernelView:
    """What the kernel shows: mounts of som, and what each start's slot holds."""

    boot_id: str
    attached: Mapping[tuple[seams.LeaseId, int], int]
    usage: Mapping[tuple[seams.LeaseId, int], seams.Usage]
    building: frozenset[tuple[seams.LeaseId, int]] = frozenset()
    resisting: frozenset[tuple[seams.LeaseId, int]] = frozenset()


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found about a lease, or about its start `number`."""

    outcome: Outcome | state.Event
    lease_id: seams.LeaseId
    number: int | None = None


WHOLE_S: Final = 1.0
"""Times of containers are cut to whole seconds."""

KEPT_BY_HOLDERS: Collection[Outcome | state.Event] = (Outcome.HELD, state.Event.RESISTS)
"""Of memory that was taken away from its owner, and is not free."""


def about_owner(
    lease: state.Lease, leases: Sequence[state.Lease], pods: PodView
) -> Outcome | state.Event:
    """Whether the lease's owner lives, is proven gone (an Event to its starts), or neither."""
    if lease.is_spare:
        if lease.ended:
            return state.Event.OWNER_GONE
        return Outcome.KEPT if lease.is_kept else Outcome.SPARE
    if lease.owner is None:
        return Outcome.UNBOUND
    if lease.ended:
        return state.Event.OWNER_GONE
    if not pods.synced:
        return Outcome.UNPROVEN
    if lease.owner.uid in pods.live_uids:
        return Outcome.IN_USE
    if pods.resources is None or pods.own_pod not in pods.resources.pods:
        return Outcome.UNPROVEN
    listings = pods.resources.holders.count(seams.TicketHolder(*lease.owner.names, lease.ticket))
    # Some belong to a newer pod of the same name with the same ticket.
    newer = sum(
        other.ticket == lease.ticket
        and other.named_order > lease.named_order
        and other.owner is not None
        and not other.ended
        and other.owner.names == lease.owner.names
        for other in leases
    )
    return Outcome.CONTAINER_RUNS if listings > newer else state.Event.OWNER_GONE


def about_start(
    lease: state.Lease, record: state.StartRecord, kernel: KernelView, *, is_owner_gone: bool
) -> Outcome | state.Event | None:
    """What happened to a start, or how its record and the kernel disagree; None: all is well."""
    key = (lease.lease_id, record.start.number)
    if record.boot_id != kernel.boot_id:
        return state.Event.OTHER_BOOT
    if is_owner_gone and record.state is not state.State.RELEASING:
        return state.Event.OWNER_GONE
    attached = kernel.attached.get(key)
    match record.state:
        case state.State.BUILDING if key not in kernel.building:
            # A spare that was adopted and not cut yet is longer.
            is_built = attached == record.start.size_bytes
            return state.Event.BUILT if is_built else state.Event.BUILDER_LOST
        case state.State.READY | state.State.DELIVERED | state.State.KEPT:
            if attached is None:
                is_lost = kernel.usage[key].free
                return state.Event.LOST if is_lost else state.Event.MOUNT_LOST
            if kernel.usage[key].current_bytes < record.start.size_bytes:
                # No container has it, and none gets it.
                is_nobodys = record.state is not state.State.DELIVERED
                return state.Event.LOST if is_nobodys else Outcome.DAMAGED
        case state.State.RELEASING if key not in kernel.building:
            if attached is not None:
                return state.Event.STILL_MOUNTED
            if kernel.usage[key].free:
                return state.Event.FREED
            return state.Event.RESISTS if key in kernel.resisting else Outcome.HELD
    return None


def is_left(lease: state.Lease, leases: Sequence[state.Lease], kernel: KernelView) -> bool:
    """Whether the lease, whose owner is proven gone, leaves its memory to a successor."""
    record = lease.live
    return (
        lease.keep_s > 0
        and not lease.ended
        and len(lease.starts) == 1
        and record is not None
        and record.state is state.State.DELIVERED
        and about_start(lease, record, kernel, is_owner_gone=False) is None
        and not is_succeeded(lease, leases)
    )


def is_succeeded(lease: state.Lease, leases: Sequence[state.Lease]) -> bool:
    """Whether a newer container of the owner's names has had memory."""
    return any(
        other.owner is not None
        and lease.owner is not None
        and other.owner.names == lease.owner.names
        and other.named_order > lease.named_order
        and other.last_number > 0
        for other in leases
    )


def is_successor(lease: state.Lease, kept: state.Lease) -> bool:
    """Whether the bound `lease`, at its first start, may have what `kept` was left with.

    The lineage is what its pod says, so it keeps out others by mistake only. The namespace keeps
    out others for sure, and the pod that left it has asked for that.
    """
    record = kept.live
    return (
        kept.is_kept
        and not kept.ended
        and record is not None
        and record.state is state.State.KEPT
        and lease.last_number == 0
        and lease.keep_s > 0
        and lease.owner is not None
        and kept.owner is not None
        and lease.owner.names == kept.owner.names
        and lease.lineage == kept.lineage != ""
        and lease.request is not None
        and lease.request.size_bytes == record.start.size_bytes
    )


def about_content(
    lease: state.Lease, record: state.StartRecord, pods: PodView
) -> Outcome | state.Event | None:
    """Whether its container runs, or was started again without PreStartContainer.

    A container that ended after the delivery had this start; whoever runs now has it, too.
    """
    if lease.owner is None or record.told_at_s is None:
        return None
    whose = (lease.owner.uid, lease.owner.container)
    started_s = pods.running.get(whose)
    if not record.used and started_s is not None and started_s + WHOLE_S > record.told_at_s:
        return state.Event.USED
    if lease.keep_on_restart:
        return None
    ended_s = pods.restarts.get(whose, 0.0)
    return Outcome.OLD_CONTENT if ended_s > record.told_at_s else None


def strays(leases: Sequence[state.Lease], kernel: KernelView) -> list[Finding]:
    """Mounts of som that no record names; a store that was lost looks like this."""
    named = {(lease.lease_id, record.start.number) for lease in leases for record in lease.starts}
    return [
        Finding(Outcome.STRAY, lease_id, number)
        for lease_id, number in sorted(kernel.attached)
        if (lease_id, number) not in named
    ]


def pod_is_gone(lease: state.Lease, live: Collection[seams.PodUid]) -> bool:
    """The first proof, where the lease stands: kubelet's word matters from now on."""
    stands = not lease.ended and not lease.is_spare
    return lease.owner is not None and stands and lease.owner.uid not in live


def live_uids(source: seams.PodSource) -> frozenset[seams.PodUid]:
    """UIDs of the pods that have not ended."""
    return frozenset(pod.uid for pod in source.pods() if not pod.terminal)
