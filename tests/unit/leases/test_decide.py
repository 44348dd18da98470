"""Who owns a lease, and which disagreement of store, kernel and pods it is."""

import dataclasses

import pytest

from som_device_plugin import seams
from som_device_plugin.leases import binding, decide, state

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


def pod_view(*, live=(), synced=True, answer=True, own=True, listed=()):
    resources = None
    if answer:
        pods = {f"{holder.namespace}/{holder.pod}" for holder in listed} | ({OWN} if own else set())
        resources = seams.PodResources(pods=frozenset(pods), holders=tuple(listed))
    return decide.PodView(
        synced=synced, live_uids=frozenset(live), resources=resources, own_pod=OWN
    )


OWNERS = {
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
def test_owner(case):
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


def kernel_view(*, attached=True, usage=FULL, building=False, boot="boot-1"):
    return decide.KernelView(
        boot_id=boot,
        attached={KEY: 16 << 20} if attached else {},
        usage={KEY: usage},
        building=frozenset([KEY] if building else []),
    )


S, EVENT, OUT = state.State, state.Event, decide.Outcome
STARTS = {
    "being built": (S.BUILDING, kernel_view(attached=False, building=True), None),
    "agent killed while building": (S.BUILDING, kernel_view(attached=False), EVENT.BUILDER_LOST),
    "agent killed after attaching": (S.BUILDING, kernel_view(), EVENT.BUILT),
    "ready": (S.READY, kernel_view(), None),
    "delivered": (S.DELIVERED, kernel_view(), None),
    "unmounted by somebody": (S.DELIVERED, kernel_view(attached=False), EVENT.MOUNT_LOST),
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
def test_start(case):
    current, kernel, expected = STARTS[case]
    record = state.StartRecord(start=START, state=current, boot_id="boot-1")
    assert decide.about_start(BOUND, record, kernel, is_owner_gone=False) is expected


@pytest.mark.parametrize("current", state.State)
@pytest.mark.parametrize("is_owner_gone", [False, True])
@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("is_attached", [False, True])
@pytest.mark.parametrize("usage", [FULL, PINNED, EMPTY])
def test_whatever_is_found_to_have_happened_has_a_step_in_the_table(
    current, is_owner_gone, boot, is_attached, usage
):
    record = state.StartRecord(start=START, state=current, boot_id="boot-1")
    kernel = kernel_view(attached=is_attached, usage=usage, boot=boot)
    found = decide.about_start(BOUND, record, kernel, is_owner_gone=is_owner_gone)
    if isinstance(found, state.Event):
        state.step(current, found)
    if is_owner_gone:
        assert found in set(state.Event) | set(decide.KEPT_BY_HOLDERS)


def test_a_mount_that_no_record_names_is_kept_and_reported():
    (finding,) = decide.strays([BOUND], kernel_view())
    assert finding == decide.Finding(OUT.STRAY, START.lease_id, 1)


class Pods:
    def __init__(self, *pods, synced=True):
        self._pods, self.synced = pods, synced

    def pods(self):
        return self._pods

    def get(self, *, namespace, name):
        found = [p for p in self._pods if (p.namespace, p.name) == (namespace, name)]
        return found[0] if found else None


POD = seams.Pod("default", "db-0", seams.PodUid("uid-1"), False, (REQUEST,))
UNBOUND = dataclasses.replace(BOUND, owner=None, request=None)


def resources(*holders):
    return seams.PodResources(pods=frozenset([OWN]), holders=holders)


def test_a_ticket_is_bound_to_the_container_that_kubelet_lists():
    bound = binding.bind(UNBOUND, [UNBOUND], resources(LISTED), Pods(POD))
    assert (bound.owner, bound.request) == (OWNER, REQUEST)


REFUSED = {
    "kubelet lists nobody": (resources(), Pods(POD), "does not list ticket"),
    "pods not synced": (resources(LISTED), Pods(POD, synced=False), "not arrived"),
    "pod unknown": (resources(LISTED), Pods(), "not known"),
    "container without units": (
        resources(LISTED),
        Pods(dataclasses.replace(POD, containers=())),
        "requests neither",
    ),
    "two live pods": (
        resources(LISTED, dataclasses.replace(LISTED, pod="web-0")),
        Pods(POD),
        "two live pods",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_start_is_refused_when(case):
    answer, pods, text = REFUSED[case]
    with pytest.raises(seams.StartRefused, match=text):
        binding.bind(UNBOUND, [UNBOUND], answer, pods)


def test_one_ticket_in_two_live_pods_serves_nobody_until_one_of_them_has_gone():
    second = dataclasses.replace(POD, name="web-0", uid=seams.PodUid("uid-2"))
    listing = resources(LISTED, dataclasses.replace(LISTED, pod="web-0"))
    newer = dataclasses.replace(UNBOUND, lease_id=seams.LeaseId("bbbb"), named_order=2)
    bound = binding.bind(newer, [BOUND, newer], listing, Pods(POD, second))
    assert bound.owner.pod == "web-0"
    newer = dataclasses.replace(newer, owner=bound.owner)
    for pods in (Pods(POD, second), Pods(POD)):
        with pytest.raises(binding.TwoOwners):
            binding.refuse_two_owners(newer, [BOUND, newer], pods)
    binding.refuse_two_owners(newer, [BOUND, newer], Pods(second))


def test_a_ticket_still_listed_for_an_ending_pod_is_bound_to_the_new_one():
    ending = dataclasses.replace(POD, terminal=True)
    second = dataclasses.replace(POD, name="web-0", uid=seams.PodUid("uid-2"))
    newer = dataclasses.replace(UNBOUND, lease_id=seams.LeaseId("bbbb"), named_order=2)
    listing = resources(LISTED, dataclasses.replace(LISTED, pod="web-0"))
    bound = binding.bind(newer, [BOUND, newer], listing, Pods(ending, second))
    assert bound.owner.pod == "web-0"


def test_a_listing_that_may_be_a_successors_is_not_taken_for_the_ending_pods():
    successor = dataclasses.replace(POD, uid=seams.PodUid("uid-2"))
    third = dataclasses.replace(POD, name="web-0", uid=seams.PodUid("uid-3"))
    newer = dataclasses.replace(UNBOUND, lease_id=seams.LeaseId("bbbb"), named_order=2)
    listing = resources(LISTED, dataclasses.replace(LISTED, pod="web-0"))
    with pytest.raises(binding.TwoOwners):
        binding.bind(newer, [BOUND, newer], listing, Pods(successor, third))


def test_a_pod_recreated_under_its_name_waits_until_the_pod_list_shows_it():
    newer = dataclasses.replace(UNBOUND, lease_id=seams.LeaseId("bbbb"), named_order=2)
    with pytest.raises(seams.StartRefused, match="successor"):
        binding.bind(newer, [BOUND, newer], resources(LISTED), Pods(POD))
