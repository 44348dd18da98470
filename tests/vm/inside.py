"""`inside.py TEST...`: runs tests in the guest; each report goes out as a line of JSON."""

import json
import sys

import pytest

REPORTS = "/dev/ttyS1"


class Reporter:
    """Marks a session as one in the guest, and sends its reports to the host."""

    def pytest_configure(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with open(REPORTS, "w") as port:  # noqa: PTH123
            port.write(json.dumps(data) + "\n")


def main() -> int:
    # Without pytest's hands on descriptors and logging: this process forks som's.
    without = ("cacheprovider", "capture", "logging", "faulthandler", "hypothesispytest")
    options = [word for name in without for word in ("-p", f"no:{name}")]
    return pytest.main([*options, *sys.argv[1:]], plugins=[Reporter()])


if __name__ == "__main__":
    # Under the name by which conftest.py knows the reporter.
    from vm import inside

    sys.exit(inside.main())
