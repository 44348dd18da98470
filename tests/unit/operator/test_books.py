"""What kubelet's books do not know of what a node's pools have taken."""

import pytest

from som_api import v1alpha1
from som_api.plan import books
from unit.operator.world import BOOT, CARVED, GIB, node, pool_report


def somnode(*pages: v1alpha1.HugePages, boot_id: str = BOOT) -> v1alpha1.SomNode:
    return v1alpha1.SomNode(
        metadata=v1alpha1.ObjectMeta(name="n"),
        status=v1alpha1.SomNodeStatus(boot_id=boot_id, huge_pages=pages),
    )


def pages(size: v1alpha1.PageSize = "2Mi", *, pools: int, others: int = 0) -> v1alpha1.HugePages:
    return v1alpha1.HugePages(page_size=size, total=(pools + others) * GIB, pools=pools * GIB)


def told(counted: int, *reported: v1alpha1.HugePages) -> tuple[str, str, str]:
    """Status, reason and message where kubelet counts so many GiB of 2Mi pages."""
    found = books.condition(node(huge_pages={"2Mi": counted * GIB}), somnode(*reported))
    assert found is not None and found.type == "BooksPending"
    return found.status, found.reason, found.message


def carved(
    counted_bytes: int,
    *reported: v1alpha1.HugePages,
    left: int,
    in_pools: int,
    driver: v1alpha1.DriverType = "Kernel",
    source: v1alpha1.Source | None = CARVED,
) -> tuple[str, str, str]:
    """The same where kubelet counted that much memory, and a pool of `in_pools` bytes left that.

    `source` is what is ordered of it; None: nothing, it leaves.
    """
    entry = v1alpha1.NodePool(
        name="a", generation=1, unit="2Mi", capacity=0, source=source or CARVED
    )
    shares = (v1alpha1.NumaShare(node=0, capacity=in_pools),)
    pool = pool_report(entry).model_copy(update={"driver": driver, "numa": shares})
    found = somnode(*reported)
    told_by = found.status.model_copy(update={"memory": left, "pools": (pool,)})
    spec = v1alpha1.SomNodeSpec(pools=(entry,) if source else ())
    found = found.model_copy(update={"status": told_by, "spec": spec})
    condition = books.condition(node(memory_bytes=counted_bytes), found)
    assert condition is not None
    return condition.status, condition.reason, condition.message


def test_pages_reserved_after_kubelet_started_are_not_counted() -> None:
    status, reason, message = told(0, pages(pools=2))
    assert (status, reason) == ("True", "NotCounted")
    assert message == (
        "kubelet does not count 2Gi of the pools' huge pages, because they were reserved after it "
        "had started: pods may be promised 2Gi of ordinary memory that is not there. Restart "
        "kubelet once the pods of the node request 2Gi less than it can allocate."
    )


def test_pages_that_kubelet_counts_are_offered_twice() -> None:
    status, reason, message = told(2, pages(pools=2))
    assert (status, reason) == ("True", "OfferedTwice")
    assert message == (
        "kubelet offers huge pages of the pools a second time, 2Gi as hugepages-2Mi: a pod that "
        "requests them finds none. Keep pods that request hugepages-2Mi away from the node, by a "
        "taint or by a ResourceQuota."
    )


def test_a_pool_that_grew_since_kubelet_started_is_both() -> None:
    status, reason, message = told(2, pages(pools=5))
    assert (status, reason) == ("True", "NotCounted")
    assert "does not count 3Gi" in message and "2Gi as hugepages-2Mi" in message


def test_the_nodes_own_pages_are_not_the_pools() -> None:
    assert told(4, pages(pools=2, others=4))[1:2] == ("NotCounted",)
    assert "does not count 2Gi" in told(4, pages(pools=2, others=4))[2]
    assert "2Gi as hugepages-2Mi" in told(6, pages(pools=2, others=4))[2]


def test_pages_that_others_added_late_are_not_soms_to_tell() -> None:
    assert "does not count 2Gi" in told(0, pages(pools=2, others=4))[2]


@pytest.mark.parametrize("counted", [0, 4])
def test_books_agree_where_no_pool_has_pages(counted: int) -> None:
    assert told(counted) == ("False", "BooksAgree", "")


def test_both_sizes_are_told_in_one_condition() -> None:
    message = told(1, pages(pools=1), pages("1Gi", pools=3))[2]
    assert "does not count 3Gi" in message
    assert "1Gi as hugepages-2Mi" in message


def test_carved_memory_is_counted_until_kubelet_starts_again() -> None:
    assert carved(16 * GIB, left=14 * GIB, in_pools=2 * GIB) == (
        "True",
        "StillCounted",
        "kubelet still counts 2Gi of memory that the pools have carved out of the node since it "
        "started: pods may be promised 2Gi of ordinary memory that is not there. Restart kubelet "
        "once the pods of the node request 2Gi less than it can allocate.",
    )
    assert carved(14 * GIB, left=14 * GIB, in_pools=2 * GIB) == ("False", "BooksAgree", "")


def test_of_memory_that_went_the_pools_have_what_they_have() -> None:
    assert "counts 2Gi of" in carved(16 * GIB, left=12 * GIB, in_pools=2 * GIB)[2]
    assert "counts 1Gi of" in carved(16 * GIB, left=15 * GIB, in_pools=2 * GIB)[2], "the rest of it"
    assert carved(16 * GIB, left=14 * GIB, in_pools=0)[1] == "BooksAgree"
    assert carved(16 * GIB, left=14 * GIB, in_pools=GIB, driver="HugeTLBFS")[1] == "BooksAgree"


def test_a_carved_pool_that_leaves_is_told_and_one_of_other_memory_never() -> None:
    assert carved(16 * GIB, left=14 * GIB, in_pools=2 * GIB, source=None)[1] == "StillCounted"
    ranges = v1alpha1.External(ranges=("0x200000-0x3fffff",))
    external = v1alpha1.Source(external=ranges)
    assert carved(16 * GIB, left=14 * GIB, in_pools=2 * GIB, source=external)[1] == "BooksAgree"


@pytest.mark.parametrize("left", [16 * GIB, 16 * GIB - 4096, 17 * GIB, 0])
def test_memory_that_did_not_go_or_came_back_or_is_not_told_is_no_trouble(left: int) -> None:
    assert carved(16 * GIB, left=left, in_pools=2 * GIB) == ("False", "BooksAgree", "")


def test_pages_and_carved_memory_are_told_in_one_condition() -> None:
    late = pages(pools=1)
    status, reason, message = carved(16 * GIB, late, left=14 * GIB, in_pools=2 * GIB)
    assert (status, reason) == ("True", "NotCounted")
    assert "does not count 1Gi" in message and "still counts 2Gi" in message


@pytest.mark.parametrize("boot_id", ["boot-0", ""])
def test_a_report_of_another_boot_tells_nothing(boot_id: str) -> None:
    assert books.condition(node(), somnode(pages(pools=2), boot_id=boot_id)) is None
    assert books.condition(node(boot_id=""), somnode(pages(pools=2), boot_id="")) is None
    assert books.condition(node(), None) is None
