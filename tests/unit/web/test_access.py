"""Who may see what, and what the API server is asked for it."""

import pytest
from starlette import types

from fakes import asgi
from fakes.clock import FakeClock
from fakes.reviewer import ADMIN, NOBODY, VIEWER, FakeReviewer
from som_api import kube
from som_api.web import access, refusals


@pytest.mark.parametrize(
    ("token", "target", "status"),
    [
        ("", "pools", 401),
        ("stolen", "pools", 401),
        ("no token\u00e9", "pools", 401),
        (ADMIN, "pools", 200),
        (ADMIN, "nodes", 200),
        (ADMIN, "leases", 200),
        (ADMIN, "events", 200),
        (VIEWER, "pools", 200),
        (VIEWER, "nodes/node-0000", 200),
        (VIEWER, "leases?namespace=shop", 200),
        (VIEWER, "leases?namespace=default", 403),
        (VIEWER, "leases", 403),
        (VIEWER, "events", 403),
        (NOBODY, "pools", 403),
        (NOBODY, "pools/databases", 403),
        (NOBODY, "pools/none", 403),
        (NOBODY, "nodes", 403),
        (NOBODY, "leases?namespace=shop", 403),
        (NOBODY, "events", 403),
    ],
)
async def test_rights(token: str, target: str, status: int, web: types.ASGIApp) -> None:
    answer = await asgi.get(web, f"/api/v1/{target}", token=token)
    assert answer.status == status
    if status != 200:
        assert answer.json()["code"] == status


async def test_a_refusal_says_which_right_is_missing(web: types.ASGIApp) -> None:
    answer = await asgi.get(web, "/api/v1/leases?namespace=default", token=VIEWER)
    assert "viewer may not list pods in namespace 'default'" in answer.json()["message"]
    answer = await asgi.get(web, "/api/v1/leases", token=VIEWER)
    assert "?namespace=" in answer.json()["message"]


async def test_an_api_server_that_is_away_is_no_refusal(
    reviewer: FakeReviewer, web: types.ASGIApp
) -> None:
    reviewer.away = kube.KubeError("POST", status=0, reason="NoAnswer", message="gone")
    answer = await asgi.get(web, "/api/v1/pools", token=ADMIN)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


async def test_answers_are_kept_for_their_time(reviewer: FakeReviewer) -> None:
    clock = FakeClock()
    judge = access.Access(reviewer, time=clock)
    await judge.caller(ADMIN)
    await judge.caller(ADMIN)
    assert reviewer.asked == 1
    reviewer.tokens.clear()
    await clock.advance(access.ALLOWED_S + 1)
    with pytest.raises(refusals.Refusal):
        await judge.caller(ADMIN)


async def test_no_more_answers_are_kept_than_can_be(reviewer: FakeReviewer) -> None:
    judge = access.Access(reviewer, time=FakeClock())
    for number in range(access.MOST_KEPT + 1):
        with pytest.raises(refusals.Refusal):
            await judge.caller(f"t{number}")
    asked = reviewer.asked
    with pytest.raises(refusals.Refusal):
        await judge.caller("t0")
    assert reviewer.asked == asked + 1
