"""Counts the answers of fleet API and page, by the route's template and the status."""

import collections
from typing import Final

from starlette import types

ELSEWHERE: Final = "none"
"""Of what no route is: paths that strangers make up are not told apart."""

Answers = collections.Counter[tuple[str, int]]
"""How many, by route and status; a stream counts when it begins."""


class Counting:
    """An application in front of another one, whose router notes the route in the scope."""

    def __init__(self, app: types.ASGIApp, answers: Answers) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        async def counted(message: types.Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", ELSEWHERE)
                self._answers[route, message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counted)
