"""Boots the guests that the chosen tests need, two at a time, and keeps what they said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from driver import bench as benches
from driver import plans
from guests import debian, debug_kernel, guest, tried

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(tried.Tried(HERE, lambda item: item.callspec.params["kernel"]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    boots = [(kernel, boot) for kernel in debian.SERIES for boot in plans.BOOTS]
    boots += [(debug_kernel.NAME, boot) for boot in plans.DEBUG_BOOTS]
    if "test" in metafunc.fixturenames:
        metafunc.parametrize(
            ("kernel", "boot", "test"),
            [parameters(*boot, test) for boot in boots for test in boot[1].tests],
        )
    elif "boot" in metafunc.fixturenames:
        metafunc.parametrize(("kernel", "boot"), [parameters(*boot) for boot in boots])


def parameters(kernel: str, boot: plans.Boot, *test: guest.Test) -> Any:
    name = f"{kernel}/{boot.name}/" + "".join(each.name for each in test)
    if kernel == debug_kernel.NAME:
        marks = [pytest.mark.full, pytest.mark.debug]
    else:
        marks = [] if boot.on_every_kernel or kernel == plans.KERNEL else [pytest.mark.full]
    return pytest.param(kernel, boot, *test, id=name, marks=marks)


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[benches.Bench]:
    """The guests of all chosen tests; the first two start at once."""
    if missing := benches.requirements_missing():
        cannot_run(missing)
    wanted: dict[tuple[str, plans.Boot], set[guest.Test]] = {}
    for item in request.session.items:
        if not isinstance(item, pytest.Function):
            continue
        parameters: dict[str, Any] = item.callspec.params
        if "boot" in parameters:
            boot = parameters["boot"]
            needed = {test for test in boot.tests if test.always}
            tests = wanted.setdefault((parameters["kernel"], boot), needed)
            tests |= {parameters["test"]} if "test" in parameters else set()
    guests = benches.Bench(
        {key: [test for test in key[1].tests if test in tests] for key, tests in wanted.items()}
    )
    yield guests
    guests.close()


@pytest.fixture
def built(kernel: str, bench: benches.Bench) -> tuple[debian.Kernel, dict[str, Path]]:
    """This kernel, and what its guests get, by its path there."""
    try:
        return bench.built(kernel)
    except debian.DebianError as error:
        cannot_run(str(error))


@pytest.fixture
def run(kernel: str, boot: plans.Boot, bench: benches.Bench) -> guest.Run:
    """What the guest of this kernel and boot did; waits for it to end."""
    try:
        return bench.run(kernel, boot)
    except debian.DebianError as error:
        cannot_run(str(error))


def cannot_run(reason: str) -> NoReturn:
    """A machine that cannot run guests skips them with the reason; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
