"""Which runs of a tier count for the list of kernels."""

import pathlib
from typing import Any, cast

import pytest

from guests import tried

TIER = pathlib.Path("/tests/driver")


class Item:
    """A test `[6.12/...]`; one that is `full` is not part of the whole."""

    def __init__(self, name: str, *, full: bool = False) -> None:
        self.nodeid, self.series, self._full = name, name.partition("/")[0], full

    def get_closest_marker(self, _name: str) -> bool:
        return self._full


def passed(
    items: list[Item], outcomes: dict[str, str], *, arguments: str = str(TIER)
) -> dict[str, int]:
    plugin = tried.Tried(TIER, lambda item: item.series)
    for item in items:
        plugin.pytest_itemcollected(cast(Any, item))
    for name, outcome in outcomes.items():
        for when in ("setup", "call", "teardown"):
            came = outcome if when == "call" else "passed"
            report = pytest.TestReport(
                name, ("", 0, ""), {}, cast(Any, came), None, cast(Any, when)
            )
            plugin.pytest_runtest_logreport(report)
    return plugin.passed([arguments])


def test_a_whole_run_counts_for_each_kernel_that_passed() -> None:
    items = [Item("6.12/a"), Item("6.12/b"), Item("6.12/c", full=True), Item("6.1/a")]
    outcomes = {"6.12/a": "passed", "6.12/b": "skipped", "6.1/a": "failed"}
    assert passed(items, outcomes) == {"6.12": 1}


def test_a_part_does_not_count() -> None:
    items = [Item("6.12/a"), Item("6.12/b")]
    whole = {"6.12/a": "passed", "6.12/b": "passed"}
    assert passed(items, {"6.12/a": "passed"}) == {}
    assert passed(items, whole, arguments=f"{TIER}/test_one.py") == {}
    assert passed(items, {**whole, "6.12/b": "failed"}) == {}


def test_what_was_skipped_as_a_whole_does_not_count() -> None:
    assert passed([Item("6.12/a")], {"6.12/a": "skipped"}) == {}
