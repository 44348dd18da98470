"""Which kernels a whole tier has passed on: noted in the cache, told by `make kernels-tried`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from guests import debian
from som_api import VERSION

CACHE = debian.CACHE.parent / "tried.json"
TOLD = Path(__file__).parents[2] / "docs/kernels.json"
"""Kernel's release -> tier -> tests that passed, the day, and som's version."""


class Tried:
    """A plugin of pytest: a part of the tier in `folder`, or one with a failure, leaves no record.

    `series_of` says on which of `debian.SERIES` a test runs.
    """

    def __init__(self, folder: Path, series_of: Callable[[Any], str]) -> None:
        self._folder, self._series_of = folder, series_of
        self._wanted: dict[str, set[str]] = {}
        self._outcomes: dict[str, str] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if not item.get_closest_marker("full"):
            self._wanted.setdefault(self._series_of(item), set()).add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed" or report.when == "call":
            before = self._outcomes.get(report.nodeid)
            self._outcomes[report.nodeid] = "failed" if before == "failed" else report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for series, passed in self.passed(session.config.args).items():
            what = {"passed": passed, "day": f"{datetime.date.today()}", "som": VERSION}
            _merge(CACHE, {debian.kernel(series).release: {self._folder.name: what}})

    def passed(self, arguments: list[str]) -> dict[str, int]:
        """Series -> tests that passed, where all of the tier ran; `arguments` are pytest's."""
        if [Path(each).resolve() for each in arguments] != [self._folder]:
            return {}
        came = {
            series: [self._outcomes.get(test) for test in wanted]
            for series, wanted in self._wanted.items()
        }
        return {
            series: outcomes.count("passed")
            for series, outcomes in came.items()
            if {"passed"} <= set(outcomes) <= {"passed", "skipped"}
        }


def _merge(path: Path, more: Mapping[str, Mapping[str, Any]]) -> None:
    known = _read(path)
    merged = {kernel: {**known.get(kernel, {}), **tiers} for kernel, tiers in more.items()}
    path.write_text(json.dumps({**known, **merged}, indent=1, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    _merge(TOLD, _read(CACHE))
