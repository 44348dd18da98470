"""Whose ticket is it? Decided from kubelet's list, the leases and the pods. No I/O.

PreStartContainer names a ticket, and nothing else. Kubelet's PodResources says which container
holds it: two, where kubelet has handed it out twice (a known fault, see `kubelet.turns`) or where
the last one's pod ends late. So with ticket n0-1 of pod db, whose lease is `a`:

    1  Kubelet allocates n0-1 to pod web too. Lease `b` is named; db and web are listed.
    2  A PreStart comes. `bind`: lease `a` explains that db is listed, so `b` is web's. But db
       lives: does web start here, or db again? Nobody can tell, so `refuse_two_owners` refuses,
       with an Event, until one of them is gone. What db has is not touched.
    3  Web is deleted: both proofs end `b`, and PreStart is db's again, of `a`.
       Or db is deleted: its UID is gone, so PreStart is web's, of `b`, though kubelet may list
       db a while longer. Where a new pod db was made meanwhile, that listing may be the new
       one's: then two remain, and neither starts until one of them goes.
"""

import dataclasses
from collections.abc import Sequence

from som_device_plugin import seams
from som_device_plugin.leases import decide, state


def bind(
    lease: state.Lease,
    leases: Sequence[state.Lease],
    resources: seams.PodResources,
    source: seams.PodSource,
) -> state.Lease:
    """`lease`, and whose it is: its ticket's holder's, or of two the one who has no lease yet.

    Raises:
        seams.StartRefused: nobody's yet, or nobody can tell whose, or the pod is not known yet, or
            asks for no som memory, or for what nobody can give.
    """
    holders = {holder for holder in resources.holders if holder.ticket == lease.ticket}
    if len(holders) > 1:
        holders -= _held_by_others(lease, leases, source)
    if not holders:
        raise seams.StartRefused(
            f"som: kubelet does not list ticket {lease.ticket} yet, retrying, no action needed",
            reason="PodNotListed",
        )
    if len(holders) > 1:
        raise TwoOwners(lease.ticket, [f"{h.namespace}/{h.pod}" for h in holders])
    (holder,) = holders
    if not source.synced:
        raise seams.StartRefused(
            "som: the list of this node's pods has not arrived from the API server yet, retrying",
            reason="PodsUnknown",
        )
    pod = source.get(namespace=holder.namespace, name=holder.pod)
    if pod is None or pod.terminal:
        raise seams.StartRefused(
            f"som: pod {holder.namespace}/{holder.pod} is not known on this node yet, retrying",
            reason="PodUnknown",
        )
    owner = seams.Owner(holder.namespace, holder.pod, holder.container, pod.uid)
    if any(o.owner == owner and not o.ended and o.lease_id != lease.lease_id for o in leases):
        raise seams.StartRefused(
            f"som: pod {owner.namespace}/{owner.pod} of UID {owner.uid} has its lease already; "
            "its successor has not arrived from the API server yet, retrying",
            reason="PodUnknown",
        )
    for request in pod.containers:
        if request.name == holder.container:
            if request.fault:
                raise seams.StartRefused(
                    f"som: container {request.name}: {request.fault}", reason="WrongAnnotation"
                )
            return dataclasses.replace(
                lease,
                owner=owner,
                request=request,
                keep_on_restart=holder.container in pod.keep_on_restart,
                keep_s=pod.keep_on_restart.get(holder.container, 0.0),
                lineage=pod.lineage,
            )
    raise seams.StartRefused(
        f"som: container {holder.container} holds a som.io/ticket but requests neither som.io/2Mi "
        "nor som.io/1Gi; request units, and leave the ticket to admission",
        reason="NoUnits",
    )


class TwoOwners(seams.StartRefused):
    """Kubelet handed one ticket to two live pods."""

    def __init__(self, ticket: seams.Ticket, pods: Sequence[str]) -> None:
        super().__init__(
            f"som: kubelet handed ticket {ticket} to two live pods ({' and '.join(sorted(pods))}), "
            "a known kubelet fault; delete the newer to get another ticket",
            reason="TicketInTwoPods",
        )


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
    live = decide.live_uids(source)
    for other in leases:
        is_rival = other.ticket == lease.ticket and other.lease_id != lease.lease_id
        if is_rival and other.owner is not None and not other.ended and other.owner.uid in live:
            owners = [owner for owner in (other.owner, lease.owner) if owner is not None]
            raise TwoOwners(lease.ticket, [f"{each.namespace}/{each.pod}" for each in owners])
