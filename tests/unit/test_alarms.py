"""What on a guest's console is a complaint of its kernel."""

import pytest

from guests import guest


@pytest.mark.parametrize(
    "line",
    [
        "[  612.048213] WARNING: CPU: 1 PID: 84 at mm/page_counter.c:58",
        "[12345.048213][   T84] BUG: soft lockup - CPU#0 stuck for 122s!",
        "test_churn.py [  612.048213] INFO: task claim:84 blocked for more than 120 seconds.",
    ],
)
def test_a_line_of_the_kernel_that_complains_is_an_alarm(line: str) -> None:
    assert guest.alarms(f"[    0.000000] Linux version 6.12\n{line}\n") == [line]


def test_what_a_failed_test_shows_of_the_agents_log_is_none() -> None:
    log = "2026-11-29 18:57:50,084 WARNING som_device_plugin.pools pool refused"
    assert not guest.alarms(f"[  612.048213] som-test: begin tests\nE           {log}\n")
