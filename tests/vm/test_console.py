"""What the guest's kernel has said; runs on the host, after the guest's end."""

from guests import guest


def test_the_kernel_of_the_guest_has_no_complaint(console: str) -> None:
    assert not guest.alarms(console), console[-6000:]
