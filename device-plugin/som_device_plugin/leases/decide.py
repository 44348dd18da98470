"""What to do about leases, decided from three views: store, kernel, pods. No I/O.

Release needs two proofs, and silence is none: the synced pod source says that the owner's UID is
gone or terminal, and kubelet's PodResources answers, names the agent's own pod, and does not list
the ticket for the owner any more. A pod deleted by force is gone for the API server while its
container runs; kubelet's answer after a restart is empty while the API server is away. Every
disagreement of the views has a name in `Outcome`.
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence

from som_device_plugin import seams
from som_device_plugin.leases import state


class Outcome(enum.Enum):
    """What was found about a lease or one of its starts."""

    UNBOUND = "named and not started yet: holds nothing"
    IN_USE = "its owner lives"
    OWNER_GONE = "both proofs: released"
    CONTAINER_RUNS = "the pod is gone, kubelet still lists its container: kept"
    UNPROVEN = "no information about its owner: kept"
    OTHER_BOOT = "of another boot: content lost, ticket and owner kept"
    BUILD_COMPLETED = "attached, though nobody recorded it: ready"
    BUILDER_LOST = "its builder is gone: built anew at the next start"
    MOUNT_LOST = "its mount is gone"
    DAMAGED = "pages of it are missing: its container cut them off, or its cgroup was removed"
    STILL_MOUNTED = "to be taken away, and nobody has done it yet: done now"
    FREED = "nobody holds its pages any more"
    HELD = "released, and somebody still holds its pages: not offered"
    RESISTS = "released, and its holder keeps the kernel from truncating it: tried again"
    OLD_CONTENT = "restarted while no agent served the node: it found its own old content"
    STRAY = "a mount of som that no record names: kept, and reported"


@dataclasses.dataclass(frozen=True)
class PodView:
    """What is known about pods. `resources` is None when kubelet did not answer."""

    synced: bool
    live_uids: frozenset[seams.PodUid]
    resources: seams.PodResources | None
    own_pod: str
    restarts: Mapping[tuple[seams.PodUid, str], float] = dataclasses.field(default_factory=dict)
    """(UID, container) that runs -> when the one before it ended; see `seams.Pod`."""


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
    """One outcome about a lease, or about its start `number`."""

    outcome: Outcome
    lease_id: seams.LeaseId
    number: int | None = None


def about_owner(lease: state.Lease, leases: Sequence[state.Lease], pods: PodView) -> Outcome:
    """Whether the lease's owner lives, is proven gone, or neither."""
    if lease.owner is None:
        return Outcome.UNBOUND
    if lease.ended:
        return Outcome.OWNER_GONE
    if not pods.synced:
        return Outcome.UNPROVEN
    if lease.owner.uid in pods.live_uids:
        return Outcome.IN_USE
    if pods.resources is None or pods.own_pod not in pods.resources.pods:
        return Outcome.UNPROVEN
    if _listings(lease, pods.resources) > _newer_of_same_names(lease, leases):
        return Outcome.CONTAINER_RUNS
    return Outcome.OWNER_GONE


def _listings(lease: state.Lease, resources: seams.PodResources) -> int:
    owner = lease.owner
    assert owner is not None
    wanted = seams.TicketHolder(owner.namespace, owner.pod, owner.container, lease.ticket)
    return sum(holder == wanted for holder in resources.holders)


def _newer_of_same_names(lease: state.Lease, leases: Sequence[state.Lease]) -> int:
    """Listings that belong to a newer pod of the same name with the same ticket."""
    mine = lease.owner
    assert mine is not None
    return sum(
        other.ticket == lease.ticket
        and other.named_order > lease.named_order
        and other.owner is not None
        and not other.ended
        and other.owner.names == mine.names
        for other in leases
    )


def about_start(
    lease: state.Lease, record: state.StartRecord, kernel: KernelView
) -> Outcome | None:
    """How the record of a start and the kernel disagree; None: they agree."""
    key = (lease.lease_id, record.start.number)
    if record.boot_id != kernel.boot_id:
        return Outcome.OTHER_BOOT
    attached = kernel.attached.get(key)
    match record.state:
        case state.State.BUILDING if key not in kernel.building:
            return Outcome.BUILD_COMPLETED if attached is not None else Outcome.BUILDER_LOST
        case state.State.READY | state.State.DELIVERED:
            if attached is None:
                return Outcome.MOUNT_LOST
            if kernel.usage[key].current_bytes < record.start.size_bytes:
                return Outcome.DAMAGED
        case state.State.RELEASING if key not in kernel.building:
            if attached is not None:
                return Outcome.STILL_MOUNTED
            if kernel.usage[key].free:
                return Outcome.FREED
            return Outcome.RESISTS if key in kernel.resisting else Outcome.HELD
    return None


def about_content(lease: state.Lease, record: state.StartRecord, pods: PodView) -> Outcome | None:
    """Whether its container was started again without PreStartContainer.

    A container that ended after the delivery had this start; whoever runs now has it, too.
    """
    if lease.owner is None or lease.keep_on_restart or record.told_at_s is None:
        return None
    ended_s = pods.restarts.get((lease.owner.uid, lease.owner.container), 0.0)
    return Outcome.OLD_CONTENT if ended_s > record.told_at_s else None


def strays(leases: Sequence[state.Lease], kernel: KernelView) -> list[Finding]:
    """Mounts of som that no record names; a store that was lost looks like this."""
    named = {(lease.lease_id, record.start.number) for lease in leases for record in lease.starts}
    return [
        Finding(Outcome.STRAY, lease_id, number)
        for lease_id, number in sorted(kernel.attached)
        if (lease_id, number) not in named
    ]


EVENT_OF: Mapping[Outcome, state.Event] = {
    Outcome.OWNER_GONE: state.Event.OWNER_GONE,
    Outcome.OTHER_BOOT: state.Event.OTHER_BOOT,
    Outcome.BUILD_COMPLETED: state.Event.BUILT,
    Outcome.BUILDER_LOST: state.Event.BUILDER_LOST,
    Outcome.MOUNT_LOST: state.Event.MOUNT_LOST,
    Outcome.STILL_MOUNTED: state.Event.STILL_MOUNTED,
    Outcome.RESISTS: state.Event.RESISTED,
    Outcome.FREED: state.Event.FREED,
}
"""What an outcome does to a start; the other outcomes change nothing."""

KEPT_BY_HOLDERS: Collection[Outcome] = (Outcome.HELD, Outcome.RESISTS)
"""Outcomes of memory that was taken away from its owner, and is not free."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """The container that a ticket belongs to, and what it asked for."""

    owner: seams.Owner
    request: seams.ContainerRequest
    keep_on_restart: bool


def bind(
    lease: state.Lease,
    leases: Sequence[state.Lease],
    resources: seams.PodResources,
    source: seams.PodSource,
) -> Bound:
    """Find out whose ticket this is: of a kubelet fault's two live pods, the one without a lease.

    Raises:
        seams.StartRefused: nobody's yet, or nobody can tell whose, or the pod is not known yet, or
            asks for no som memory.
    """
    holders = {holder for holder in resources.holders if holder.ticket == lease.ticket}
    if len(holders) > 1:
        holders -= _held_by_others(lease, leases, source)
    if not holders:
        raise seams.StartRefused(
            f"som: kubelet does not list ticket {lease.ticket} yet, retrying, no action needed"
        )
    if len(holders) > 1:
        raise TwoOwners(lease.ticket, [f"{h.namespace}/{h.pod}" for h in holders])
    (holder,) = holders
    if not source.synced:
        raise seams.StartRefused(
            "som: the list of this node's pods has not arrived from the API server yet, retrying"
        )
    pod = source.get(namespace=holder.namespace, name=holder.pod)
    if pod is None or pod.terminal:
        raise seams.StartRefused(
            f"som: pod {holder.namespace}/{holder.pod} is not known on this node yet, retrying"
        )
    owner = seams.Owner(holder.namespace, holder.pod, holder.container, pod.uid)
    if any(o.owner == owner and not o.ended and o.lease_id != lease.lease_id for o in leases):
        raise seams.StartRefused(
            f"som: pod {owner.namespace}/{owner.pod} of UID {owner.uid} has its lease already; "
            "its successor has not arrived from the API server yet, retrying"
        )
    for request in pod.containers:
        if request.name == holder.container:
            return Bound(owner, request, pod.keep_on_restart)
    raise seams.StartRefused(
        f"som: container {holder.container} holds a som.io/ticket but requests neither som.io/2Mi "
        "nor som.io/1Gi; request units, and leave the ticket to admission"
    )


class TwoOwners(seams.StartRefused):
    """Kubelet handed one ticket to two live pods."""

    def __init__(self, ticket: seams.Ticket, pods: Sequence[str]) -> None:
        super().__init__(
            f"som: kubelet handed ticket {ticket} to two live pods ({' and '.join(sorted(pods))}), "
            "a known kubelet fault; delete the newer to get another ticket"
        )


def pod_is_gone(lease: state.Lease, live: Collection[seams.PodUid]) -> bool:
    """The first proof, where the lease stands: kubelet's word matters from now on."""
    return lease.owner is not None and not lease.ended and lease.owner.uid not in live


def live_uids(source: seams.PodSource) -> frozenset[seams.PodUid]:
    """UIDs of the pods that have not ended."""
    return frozenset(pod.uid for pod in source.pods() if not pod.terminal)


def _held_by_others(
    lease: state.Lease, leases: Sequence[state.Lease], source: seams.PodSource
) -> set[seams.TicketHolder]:
    """Listings that belong to older leases, whose containers may be on their way out.

    Not those that may be a successor's of the same name.
    """
    listings = set()
    for other in leases:
        owner = other.owner
        if owner is None or other.ticket != lease.ticket or other.lease_id == lease.lease_id:
            continue
        pod = source.get(namespace=owner.namespace, name=owner.pod)
        if pod is None or pod.terminal or (pod.uid == owner.uid and not other.ended):
            listings.add(seams.TicketHolder(*owner.names, lease.ticket))
    return listings


def refuse_two_owners(
    lease: state.Lease, leases: Sequence[state.Lease], source: seams.PodSource
) -> None:
    """Nobody can tell for whom of two live pods a start with their ticket is: never guess.

    Raises:
        TwoOwners: another lease of the ticket has a live owner.
    """
    live = live_uids(source)
    others = [
        other.owner
        for other in leases
        if other.ticket == lease.ticket and other.lease_id != lease.lease_id and not other.ended
    ]
    for owner in others:
        if owner is not None and owner.uid in live:
            raise TwoOwners(
                lease.ticket, [f"{o.namespace}/{o.pod}" for o in (owner, lease.owner) if o]
            )
