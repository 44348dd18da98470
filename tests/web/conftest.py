"""A real Chromium, and the page of fleets of three sizes."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator

import pytest
from playwright import sync_api

from fakes import fleet as fakes
from fakes import reviewer as reviewers
from web.serving import CHROMIUM, Served, certify, serving
from web.visiting import COOKIE, Visit, Visitor, faults

# Five seconds by default, of which two pass between two refreshes.
sync_api.expect.set_options(timeout=60_000)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return certify(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def fleet_of(certificate: pathlib.Path) -> Iterator[Callable[[int], Served]]:
    """The page of a fleet of so many nodes: for tests that only look at it."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(
            lambda nodes: stack.enter_context(serving(fakes.FakeFleet(nodes), certificate))
        )


@pytest.fixture
def served(certificate: pathlib.Path) -> Iterator[Served]:
    """The page of a fleet of three nodes that a test may change."""
    with serving(fakes.FakeFleet(3), certificate) as served:
        yield served


# Playwright keeps a loop running in this thread; the asynchronous tests of other files need theirs.
@pytest.fixture(scope="module")
def playwright() -> Iterator[sync_api.Playwright]:
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: sync_api.Playwright) -> Iterator[sync_api.Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: sync_api.Browser) -> Iterator[Visitor]:
    """Opens browsers, with a token's cookie; at the end none may have done what it should not."""
    with contextlib.ExitStack() as stack:
        visits: list[Visit] = []

        def visit(
            served: Served, *, token: str = reviewers.ADMIN, width: int = 1280, dark: bool = False
        ) -> Visit:
            context = browser.new_context(
                ignore_https_errors=True,
                viewport={"width": width, "height": 900},
                color_scheme="dark" if dark else "light",
            )
            stack.callback(context.close)
            if token:
                context.add_cookies(
                    [
                        {
                            "name": COOKIE,
                            "value": token,
                            "url": served.origin,
                            "secure": True,
                            "httpOnly": True,
                            "sameSite": "Strict",
                        }
                    ]
                )
            page = context.new_page()
            page.set_default_timeout(60_000)
            visits.append(Visit(page, served, faults(page, served)))
            return visits[-1]

        yield visit
        for each in visits:
            assert not each.faults
