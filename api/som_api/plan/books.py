"""Whether kubelet's books agree with what a node's pools have taken. Pure.

kubelet counts memory and huge pages only when it starts (pkg/kubelet/cadvisor): huge pages that are
reserved later do not lower the node's memory, and once counted they are offered as
`hugepages-<size>`, too. Memory that is carved later is counted until kubelet starts again.
"""

from typing import Final

from som_api import v1alpha1
from som_api.plan import observed

CONDITION: Final = "BooksPending"
_AGREE: Final = v1alpha1.Condition(type=CONDITION, status="False", reason="BooksAgree")


def condition(node: observed.Node, somnode: v1alpha1.SomNode | None) -> v1alpha1.Condition | None:
    """The condition of the node's SomNode; None while no report of this boot tells."""
    if somnode is None or not somnode.status.boot_id == node.boot_id != "":
        return None
    uncounted: dict[str, int] = {}
    offered: dict[str, int] = {}
    for pages in somnode.status.huge_pages:
        counted_bytes = node.huge_pages.get(pages.page_size, 0)
        # The pools' are the ones added last: what is not counted is theirs first.
        late_bytes = min(pages.pools, max(0, pages.total - counted_bytes))
        if late_bytes:
            uncounted[pages.page_size] = late_bytes
        if pages.pools > late_bytes:
            offered[pages.page_size] = pages.pools - late_bytes
    carved_bytes = _carved_bytes(node, somnode)
    if not (uncounted or carved_bytes or offered):
        return _AGREE
    troubles = {
        "NotCounted": _uncounted(uncounted) if uncounted else "",
        "StillCounted": _still_counted(carved_bytes) if carved_bytes else "",
        "OfferedTwice": _offered(offered) if offered else "",
    }
    return v1alpha1.Condition(
        type=CONDITION,
        status="True",
        reason=next(reason for reason, message in troubles.items() if message),
        message=" ".join(filter(None, troubles.values())),
    )


def _carved_bytes(node: observed.Node, somnode: v1alpha1.SomNode) -> int:
    """What pools have carved of the memory that kubelet counts."""
    status = somnode.status
    if not status.memory:
        return 0  # The agent of the release before does not tell.
    # A pool that leaves is ordered no more, and its report does not name its source.
    others = {entry.name for entry in somnode.spec.pools if entry.source.kind != "Carved"}
    in_pools_bytes = sum(
        share.capacity
        for pool in status.pools
        if pool.driver == "Kernel" and pool.name not in others
        for share in pool.numa
    )
    gone_bytes = min(in_pools_bytes, max(0, node.memory_bytes - status.memory))
    # Both round to KiB, and the kernel frees a little of its own in the course of time.
    return gone_bytes - gone_bytes % v1alpha1.CHUNK_BYTES


def _uncounted(by_size: dict[str, int]) -> str:
    amount = v1alpha1.format_bytes(sum(by_size.values()))
    return (
        f"kubelet does not count {amount} of the pools' huge pages, because they were reserved "
        f"after it had started: pods may be promised {amount} of ordinary memory that is not "
        f"there. Restart kubelet once the pods of the node request {amount} less than it can "
        "allocate."
    )


def _still_counted(gone_bytes: int) -> str:
    amount = v1alpha1.format_bytes(gone_bytes)
    return (
        f"kubelet still counts {amount} of memory that the pools have carved out of the node since "
        f"it started: pods may be promised {amount} of ordinary memory that is not there. Restart "
        f"kubelet once the pods of the node request {amount} less than it can allocate."
    )


def _offered(by_size: dict[str, int]) -> str:
    amounts = [f"{v1alpha1.format_bytes(count)} as hugepages-{s}" for s, count in by_size.items()]
    names = " or ".join(f"hugepages-{size}" for size in by_size)
    return (
        f"kubelet offers huge pages of the pools a second time, {' and '.join(amounts)}: a pod "
        f"that requests them finds none. Keep pods that request {names} away from the node, by a "
        "taint or by a ResourceQuota."
    )
