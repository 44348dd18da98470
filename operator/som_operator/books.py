"""Whether kubelet's books agree with the huge pages of a node's pools. Pure.

kubelet counts huge pages only when it starts (pkg/kubelet/cadvisor): those that are reserved later
do not lower the node's memory, and once counted they are offered as `hugepages-<size>`, too.
"""

from typing import Final

from som_api import v1alpha1
from som_operator import observed

CONDITION: Final = "BooksPending"


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
    troubles = [_uncounted(uncounted)] if uncounted else []
    troubles += [_offered(offered)] if offered else []
    reason = "NotCounted" if uncounted else "OfferedTwice" if offered else "BooksAgree"
    return v1alpha1.Condition(
        type=CONDITION,
        status="True" if troubles else "False",
        reason=reason,
        message=" ".join(troubles),
    )


def _uncounted(by_size: dict[str, int]) -> str:
    amount = v1alpha1.format_bytes(sum(by_size.values()))
    return (
        f"kubelet does not count {amount} of the pools' huge pages, because they were reserved "
        f"after it had started: pods may be promised {amount} of ordinary memory that is not "
        f"there. Restart kubelet once the pods of the node request {amount} less than it can "
        "allocate."
    )


def _offered(by_size: dict[str, int]) -> str:
    amounts = [f"{v1alpha1.format_bytes(count)} as hugepages-{s}" for s, count in by_size.items()]
    names = " or ".join(f"hugepages-{size}" for size in by_size)
    return (
        f"kubelet offers huge pages of the pools a second time, {' and '.join(amounts)}: a pod "
        f"that requests them finds none. Keep pods that request {names} away from the node, by a "
        "taint or by a ResourceQuota."
    )
