"""The table of a start's life."""

import hypothesis
import pytest
from hypothesis import strategies

from som_device_plugin.leases import state

STATES = list(state.State)
LEADS_TO_RELEASE = [
    (state.State.BUILDING, state.Event.OWNER_GONE),
    (state.State.BUILDING, state.Event.BUILD_FAILED),
    (state.State.BUILDING, state.Event.BUILDER_LOST),
    (state.State.READY, state.Event.OWNER_GONE),
    (state.State.READY, state.Event.MOUNT_LOST),
    (state.State.READY, state.Event.LOST),
    (state.State.DELIVERED, state.Event.LOST),
    (state.State.DELIVERED, state.Event.OWNER_GONE),
    (state.State.DELIVERED, state.Event.RESTARTED),
]


@pytest.mark.parametrize(("before", "event"), LEADS_TO_RELEASE)
def test_whatever_ends_a_start_takes_its_memory_away(
    before: state.State, event: state.Event
) -> None:
    step = state.step(before, event)
    assert step.state is state.State.RELEASING
    assert state.Action.REVOKE in step.actions


def test_a_start_is_told_to_its_container_only_when_it_is_ready() -> None:
    tellable = [s for s in STATES if (s, state.Event.TOLD) in state.TRANSITIONS]
    assert tellable == [state.State.READY]


def test_memory_of_this_boot_is_forgotten_only_after_the_kernel_freed_it() -> None:
    forgetting = {
        (before, event)
        for (before, event), step in state.TRANSITIONS.items()
        if state.Action.FORGET in step.actions and event is not state.Event.OTHER_BOOT
    }
    assert forgetting == {(state.State.RELEASING, state.Event.FREED)}


def test_every_state_survives_a_reboot_by_being_forgotten() -> None:
    for before in STATES:
        assert state.Action.FORGET in state.step(before, state.Event.OTHER_BOOT).actions


def test_a_pair_that_cannot_happen_raises() -> None:
    with pytest.raises(KeyError):
        state.step(state.State.READY, state.Event.FREED)


@hypothesis.given(strategies.lists(strategies.sampled_from(list(state.Event)), max_size=12))
def test_no_sequence_leaves_releasing_again(events: list[state.Event]) -> None:
    current, released = state.State.BUILDING, False
    for event in events:
        if (current, event) not in state.TRANSITIONS:
            continue
        current = state.step(current, event).state
        released = released or current is state.State.RELEASING
        assert not (released and current is not state.State.RELEASING)
