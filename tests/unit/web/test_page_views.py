"""The page without a browser: every view is an answer, and a refusal is a page as well."""

import pytest
from starlette import types

from fakes import asgi, reviewer
from fakes.fleet import FakeFleet

VIEWS = ("/", "/nodes", "/nodes/node-0001", "/pools/databases", "/leases", "/login")


@pytest.mark.parametrize("path", VIEWS)
async def test_view_is_a_page_that_loads_nothing_from_elsewhere(
    web: types.ASGIApp, path: str
) -> None:
    answer = await asgi.get(web, path, token=reviewer.ADMIN)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"://" not in answer.body
    assert b"style=" not in answer.body
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nothing", 404),
        ("/nodes/none", 404),
        ("/nodes/" + "x" * 254, 404),
        ("/pools/none", 404),
        ("/static/..%2fsite.py", 404),
        ("/static/site.py", 404),
        ("/nodes/at/3", 404),
        ("/nodes?page=0", 400),
        ("/logout", 405),
    ],
)
async def test_refusal_is_a_page(web: types.ASGIApp, path: str, code: int) -> None:
    answer = await asgi.get(web, path, token=reviewer.ADMIN)
    assert (answer.status, answer.headers["content-type"]) == (code, "text/html; charset=utf-8")


async def test_page_waits_for_complete_caches(web: types.ASGIApp, fleet: FakeFleet) -> None:
    fleet.synced = False
    answer = await asgi.get(web, "/", token=reviewer.ADMIN)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


async def test_who_has_no_token_goes_to_the_login_and_comes_back(web: types.ASGIApp) -> None:
    answer = await asgi.get(web, "/nodes?order=name")
    assert (answer.status, answer.headers["location"]) == (
        303,
        "/login?back=%2Fnodes%3Forder%3Dname",
    )


async def test_live_says_that_something_changed(web: types.ASGIApp, fleet: FakeFleet) -> None:
    async with asgi.stream(web, "/live", token=reviewer.ADMIN) as answer:
        assert await answer.next() == b"retry: 3000\n\n"
        fleet.set_ready("node-0001", agent=False)
        assert await answer.next() == b"event: changed\ndata:\n\n"


async def test_live_says_what_changed_before_it_began(web: types.ASGIApp, fleet: FakeFleet) -> None:
    page = await asgi.get(web, "/nodes", token=reviewer.ADMIN)
    assert f'data-seen="{fleet.changes.version}"' in page.body.decode()
    target = f"/live?seen={fleet.changes.version}"
    fleet.set_ready("node-0001", agent=False)
    async with asgi.stream(web, target, token=reviewer.ADMIN) as answer:
        assert await answer.next() == b"retry: 3000\n\n"
        assert await answer.next() == b"event: changed\ndata:\n\n"
