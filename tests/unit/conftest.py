"""`--processes=N`: once all is collected, N processes run the tests, each the next file.

They are forked, so nothing is imported or collected twice. What they report is shown as if one
process ran all.
"""

import concurrent.futures
import itertools
import multiprocessing
from typing import Any

import pytest

_session: pytest.Session
_files: list[list[pytest.Item]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processes", type=int, default=0, help="so many run the unit tier's files")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    processes = session.config.option.processes
    if processes == 0 or session.testsfailed or session.config.option.collectonly:
        return None
    global _session, _files
    _session = session
    _files = [list(items) for _, items in itertools.groupby(session.items, lambda item: item.path)]
    # All make their directories in this one, which goes with this process.
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), initializer=_begin
    )
    try:
        running = [pool.submit(_run, number) for number in range(len(_files))]
        for file in concurrent.futures.as_completed(running):
            _show(session.config, file.result())
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
    finally:
        pool.shutdown(cancel_futures=True)
    return True


def _begin() -> None:
    plugins = _session.config.pluginmanager
    plugins.unregister(name="terminalreporter")
    # What tests print is captured in a file, which no two processes can share.
    capture = plugins.get_plugin("capturemanager")
    assert capture is not None
    capture.stop_global_capturing()
    capture.start_global_capturing()


def _run(number: int) -> list[dict[str, Any]]:
    """Run a file's tests, and return their reports."""
    reports = _Reports()
    _session.config.pluginmanager.register(reports)
    for item, following in itertools.zip_longest(_files[number], _files[number][1:]):
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
    _session.config.pluginmanager.unregister(reports)
    return reports.data


class _Reports:
    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = _session.config
        self.data.append(config.hook.pytest_report_to_serializable(config=config, report=report))


def _show(config: pytest.Config, reports: list[dict[str, Any]]) -> None:
    for data in reports:
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        test = {"nodeid": report.nodeid, "location": report.location}
        if report.when == "setup":
            config.hook.pytest_runtest_logstart(**test)
        config.hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            config.hook.pytest_runtest_logfinish(**test)
