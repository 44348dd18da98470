"""Whether a lease has its owner still, and how store, kernel and pods disagree."""

import dataclasses
import itertools
from collections.abc import Collection, Sequence

import pytest

from som_device_plugin import seams
from som_device_plugin.leases import decide, state

OWN = "som-system/som-agent"
TICKET = seams.Ticket("n0-1")
OWNER = seams.Owner("default", "db-0", "postgres", seams.PodUid("uid-1"))
REQUEST = seams.ContainerRequest(name="postgres", unit="2Mi", count=8)
BOUND = state.Lease(
    lease_id=seams.LeaseId("aaaa"), ticket=TICKET, named_order=1, owner=OWNER, request=REQUEST
)
NEWER = dataclasses.replace(
    BOUND,
    lease_id=seams.LeaseId("bbbb"),
    named_order=2,
    owner=dataclasses.replace(OWNER, uid=seams.PodUid("uid-2")),
)
LISTED = seams.TicketHolder("default", "db-0", "postgres", TICKET)


def pod_view(
    *,
    live: Collection[str] = (),
    synced: bool = True,
    answer: bool = True,
    own: bool = True,
    listed: Sequence[seams.TicketHolder] = (),
) -> decide.PodView:
    resources = None
    if answer:
        pods = {f"{holder.namespace}/{holder.pod}" for holder in listed} | ({OWN} if own else set())
        resources = seams.PodResources(pods=frozenset(pods), holders=tuple(listed))
    return decide.PodView(
        synced=synced,
        live_uids=frozenset(map(seams.PodUid, live)),
        resources=resources,
        own_pod=OWN,
    )


Found = decide.Outcome | state.Event

OWNERS: dict[str, tuple[state.Lease, list[state.Lease], decide.PodView, Found]] = {
    "pod lives": (BOUND, [BOUND], pod_view(live=["uid-1"]), decide.Outcome.IN_USE),
    "pod gone, kubelet agrees": (BOUND, [BOUND], pod_view(), state.Event.OWNER_GONE),
    "pod deleted by force, container runs": (
        BOUND,
        [BOUND],
        pod_view(listed=[LISTED]),
        decide.Outcome.CONTAINER_RUNS,
    ),
    "kubelet silent": (BOUND, [BOUND], pod_view(answer=False), decide.Outcome.UNPROVEN),
    "kubelet restarted, lists nothing": (
        BOUND,
        [BOUND],
        pod_view(own=False),
        decide.Outcome.UNPROVEN,
    ),
    "pod source not synced": (BOUND, [BOUND], pod_view(synced=False), decide.Outcome.UNPROVEN),
    "pod source not synced, pod known": (
        BOUND,
        [BOUND],
        pod_view(synced=False, live=["uid-1"]),
        decide.Outcome.UNPROVEN,
    ),
    "recreated under its name with the same ticket": (
        BOUND,
        [BOUND, NEWER],
        pod_view(live=["uid-2"], listed=[LISTED]),
        state.Event.OWNER_GONE,
    ),
    "recreated, and the old container still runs": (
        BOUND,
        [BOUND, NEWER],
        pod_view(live=["uid-2"], listed=[LISTED, LISTED]),
        decide.Outcome.CONTAINER_RUNS,
    ),
    "newer lease of another pod explains no listing of this one": (
        BOUND,
        [BOUND, dataclasses.replace(NEWER, owner=dataclasses.replace(OWNER, pod="web-0"))],
        pod_view(listed=[LISTED]),
        decide.Outcome.CONTAINER_RUNS,
    ),
    "newer lease not bound yet explains nothing": (
        BOUND,
        [BOUND, dataclasses.replace(NEWER, owner=None)],
        pod_view(listed=[LISTED]),
        decide.Outcome.CONTAINER_RUNS,
    ),
    "deleted before its container started": (
        dataclasses.replace(BOUND, owner=None),
        [],
        pod_view(),
        decide.Outcome.UNBOUND,
    ),
}


@pytest.mark.parametrize("case", OWNERS)
def test_owner(case: str) -> None:
    lease, leases, pods, expected = OWNERS[case]
    assert decide.about_owner(lease, leases, pods) is expected


START = seams.Start(
    lease_id=BOUND.lease_id,
    number=1,
    pool="p",
    slot=0,
    size_bytes=16 << 20,
    page_bytes=2 << 20,
    driver="Fake",
)
KEY = (START.lease_id, 1)
FULL = seams.Usage(current_bytes=16 << 20, reserved_bytes=16 << 20)
EMPTY = seams.Usage(0, 0)
PINNED = seams.Usage(2 << 20, 0)


def kernel_view(
    *,
    attached: bool = True,
    usage: seams.Usage = FULL,
    building: bool = False,
    boot: str = "boot-1",
) -> decide.KernelView:
    return decide.KernelView(
        boot_id=boot,
        attached={KEY: 16 << 20} if attached else {},
        usage={KEY: usage},
        building=frozenset([KEY] if building else []),
    )


S, EVENT, OUT = state.State, state.Event, decide.Outcome
STARTS: dict[str, tuple[state.State, decide.KernelView, Found | None]] = {
    "being built": (S.BUILDING, kernel_view(attached=False, building=True), None),
    "agent killed while building": (S.BUILDING, kernel_view(attached=False), EVENT.BUILDER_LOST),
    "agent killed after attaching": (S.BUILDING, kernel_view(), EVENT.BUILT),
    "ready": (S.READY, kernel_view(), None),
    "delivered": (S.DELIVERED, kernel_view(), None),
    "unmounted by somebody": (S.DELIVERED, kernel_view(attached=False), EVENT.MOUNT_LOST),
    "destroyed by somebody": (
        S.DELIVERED,
        kernel_view(attached=False, usage=EMPTY),
        EVENT.LOST,
    ),
    "truncated by its container": (S.DELIVERED, kernel_view(usage=PINNED), OUT.DAMAGED),
    "released, pinned": (S.RELEASING, kernel_view(attached=False, usage=PINNED), OUT.HELD),
    "agent killed before taking away": (S.RELEASING, kernel_view(), EVENT.STILL_MOUNTED),
    "agent killed before unmounting": (S.RELEASING, kernel_view(usage=EMPTY), EVENT.STILL_MOUNTED),
    "released, free": (S.RELEASING, kernel_view(attached=False, usage=EMPTY), EVENT.FREED),
    "released while its worker ends": (
        S.RELEASING,
        kernel_view(attached=False, usage=EMPTY, building=True),
        None,
    ),
    "of another boot": (S.DELIVERED, kernel_view(boot="boot-2", attached=False), EVENT.OTHER_BOOT),
}


@pytest.mark.parametrize("case", STARTS)
def test_start(case: str) -> None:
    current, kernel, expected = STARTS[case]
    record = state.StartRecord(start=START, state=current, boot_id="boot-1")
    assert decide.about_start(BOUND, record, kernel, is_owner_gone=False) is expected


def test_whatever_is_found_to_have_happened_has_a_step_in_the_table() -> None:
    views = itertools.product([FULL, PINNED, EMPTY], [False, True], ["boot-1", "boot-2"])
    for usage, attached, boot in views:
        kernel = kernel_view(attached=attached, usage=usage, boot=boot)
        for current, is_owner_gone in itertools.product(state.State, [False, True]):
            record = state.StartRecord(start=START, state=current, boot_id="boot-1")
            found = decide.about_start(BOUND, record, kernel, is_owner_gone=is_owner_gone)
            if isinstance(found, state.Event):
                state.step(current, found)
            else:
                assert not is_owner_gone or found is OUT.HELD


def test_a_mount_that_no_record_names_is_kept_and_reported() -> None:
    (finding,) = decide.strays([BOUND], kernel_view())
    assert finding == decide.Finding(OUT.STRAY, START.lease_id, 1)
