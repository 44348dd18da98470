"""Whose ticket it is, also when kubelet has handed it out twice."""

import dataclasses
from collections.abc import Sequence

import pytest

from som_device_plugin import seams
from som_device_plugin.leases import binding, state

TICKET = seams.Ticket("n0-1")
OWNER = seams.Owner("default", "db-0", "postgres", seams.PodUid("uid-1"))
REQUEST = seams.ContainerRequest(name="postgres", unit="2Mi", count=8)
UNBOUND = state.Lease(lease_id=seams.LeaseId("aaaa"), ticket=TICKET, named_order=1)
BOUND = dataclasses.replace(UNBOUND, owner=OWNER, request=REQUEST)
NEWER = dataclasses.replace(UNBOUND, lease_id=seams.LeaseId("bbbb"), named_order=2)
LISTED = seams.TicketHolder("default", "db-0", "postgres", TICKET)
OTHER_LISTED = dataclasses.replace(LISTED, pod="web-0")


class Pods:
    """Implements `seams.PodSource`."""

    def __init__(self, *pods: seams.Pod, synced: bool = True) -> None:
        self._pods = pods
        self.synced = synced

    def pods(self) -> Sequence[seams.Pod]:
        return self._pods

    def get(self, *, namespace: str, name: str) -> seams.Pod | None:
        found = [p for p in self._pods if (p.namespace, p.name) == (namespace, name)]
        return found[0] if found else None


POD = seams.Pod("default", "db-0", seams.PodUid("uid-1"), False, (REQUEST,))


def resources(*holders: seams.TicketHolder) -> seams.PodResources:
    return seams.PodResources(pods=frozenset(), holders=holders)


def test_a_ticket_is_bound_to_the_container_that_kubelet_lists() -> None:
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
    "unknown allocator": (
        resources(LISTED),
        Pods(dataclasses.replace(POD, containers=(dataclasses.replace(REQUEST, fault="unknown"),))),
        "container postgres: unknown",
    ),
    "two live pods": (
        resources(LISTED, OTHER_LISTED),
        Pods(POD),
        "two live pods",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_start_is_refused_when(case: str) -> None:
    answer, pods, text = REFUSED[case]
    with pytest.raises(seams.StartRefused, match=text):
        binding.bind(UNBOUND, [UNBOUND], answer, pods)


def test_one_ticket_in_two_live_pods_serves_nobody_until_one_of_them_has_gone() -> None:
    second = dataclasses.replace(POD, name="web-0", uid=seams.PodUid("uid-2"))
    listing = resources(LISTED, OTHER_LISTED)
    bound = binding.bind(NEWER, [BOUND, NEWER], listing, Pods(POD, second))
    assert bound.owner is not None and bound.owner.pod == "web-0"
    newer = dataclasses.replace(NEWER, owner=bound.owner)
    for pods in (Pods(POD, second), Pods(POD)):
        with pytest.raises(binding.TwoOwners):
            binding.refuse_two_owners(newer, [BOUND, newer], pods)
    binding.refuse_two_owners(newer, [BOUND, newer], Pods(second))


def test_a_ticket_still_listed_for_an_ending_pod_is_bound_to_the_new_one() -> None:
    ending = dataclasses.replace(POD, terminal=True)
    second = dataclasses.replace(POD, name="web-0", uid=seams.PodUid("uid-2"))
    listing = resources(LISTED, OTHER_LISTED)
    bound = binding.bind(NEWER, [BOUND, NEWER], listing, Pods(ending, second))
    assert bound.owner is not None and bound.owner.pod == "web-0"


def test_a_listing_that_may_be_a_successors_is_not_taken_for_the_ending_pods() -> None:
    successor = dataclasses.replace(POD, uid=seams.PodUid("uid-2"))
    third = dataclasses.replace(POD, name="web-0", uid=seams.PodUid("uid-3"))
    listing = resources(LISTED, OTHER_LISTED)
    with pytest.raises(binding.TwoOwners):
        binding.bind(NEWER, [BOUND, NEWER], listing, Pods(successor, third))


def test_a_pod_recreated_under_its_name_waits_until_the_pod_list_shows_it() -> None:
    with pytest.raises(seams.StartRefused, match="successor"):
        binding.bind(NEWER, [BOUND, NEWER], resources(LISTED), Pods(POD))
