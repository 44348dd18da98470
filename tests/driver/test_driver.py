"""som.ko on Debian kernels: every line of a guest's plan is a test, and so is its console."""

from __future__ import annotations

import pytest

from driver import plans
from guests import guest


def test_in_guest(kernel: str, boot: plans.Boot, test: guest.Test, run: guest.Run) -> None:
    outcome = run.outcomes.get(test.name)
    if outcome is None:
        pytest.fail(f"the guest ended before this test:\n{run.console[-3000:]}", pytrace=False)
    if outcome.code == 77:
        pytest.skip(outcome.message)
    if outcome.code:
        pytest.fail(
            f"{outcome.message} (status {outcome.code})\n{outcome.console[-3000:]}", pytrace=False
        )
    alarms = guest.alarms(outcome.console, [test])
    assert bool(alarms) == test.complains, (alarms, outcome.console[-6000:])


def test_console_has_no_complaint_of_the_kernel(
    kernel: str, boot: plans.Boot, run: guest.Run
) -> None:
    if not any(test.complains for test in boot.tests):
        assert not guest.alarms(run.console, boot.tests), run.console[-6000:]
    assert run.finished, run.console[-3000:]
