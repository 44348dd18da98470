"""What fleet API and page count of their answers."""

import pytest

from fakes import asgi
from fakes.fleet import FakeFleet
from fakes.reviewer import ADMIN, FakeReviewer
from som_api.web import app, counting


@pytest.mark.parametrize(
    ("target", "token", "counted"),
    [
        ("/api/v1/nodes/node-0001", ADMIN, ("/api/v1/nodes/{name}", 200)),
        ("/api/v1/nodes/none", ADMIN, ("/api/v1/nodes/{name}", 404)),
        ("/api/v1/pools", "", ("/api/v1/pools", 401)),
        ("/", "", ("/", 303)),
        ("/nodes/node-0001", ADMIN, ("/nodes/{name}", 200)),
        ("/api/v1/made-up", ADMIN, (counting.ELSEWHERE, 404)),
        ("/made-up", ADMIN, (counting.ELSEWHERE, 404)),
        (f"/{'x' * 2000}", ADMIN, (counting.ELSEWHERE, 414)),
    ],
)
async def test_an_answer_counts_by_its_route_and_status(
    target: str, token: str, counted: tuple[str, int]
) -> None:
    answers = counting.Answers()
    web = app.create(FakeFleet(3), FakeReviewer(), answers=answers)
    await asgi.get(web, target, token=token)
    assert answers == {counted: 1}
