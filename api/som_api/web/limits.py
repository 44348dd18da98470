"""What a request may be at most, before anybody looks at it; and what every answer says."""

import logging
from typing import Final

from starlette import datastructures, types

from som_api.web import refusals

LONGEST_QUERY: Final = 4096
LONGEST_PATH: Final = 1024
MOST_BODY_BYTES: Final = 16 * 2**10
"""Of a login; nothing else has a body."""

_log = logging.getLogger(__name__)

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Limits:
    """An application in front of another one."""

    def __init__(self, app: types.ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read_bytes = 0

        async def receive_bounded() -> types.Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > MOST_BODY_BYTES:
                raise refusals.Refusal(413, _too_large("body", MOST_BODY_BYTES))
            return message

        begun = False

        async def send_with_headers(message: types.Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = datastructures.MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            _check(scope)
            await self._app(scope, receive_bounded, send_with_headers)
        except refusals.Refusal as refusal:
            await refusals.response(refusal)(scope, receive, send_with_headers)
        except Exception:
            _log.exception("a request to the fleet API failed: a mistake")
            if begun:
                raise
            mistake = refusals.Refusal(500, "this is a mistake of som; see the operator's log")
            await refusals.response(mistake)(scope, receive, send_with_headers)


def _check(scope: types.Scope) -> None:
    if len(scope["query_string"]) > LONGEST_QUERY:
        raise refusals.Refusal(414, _too_large("query", LONGEST_QUERY))
    if len(scope.get("raw_path") or scope["path"]) > LONGEST_PATH:
        raise refusals.Refusal(414, _too_large("path", LONGEST_PATH))
    length = datastructures.Headers(scope=scope).get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MOST_BODY_BYTES:
        raise refusals.Refusal(413, _too_large("body", MOST_BODY_BYTES))


def _too_large(what: str, most_bytes: int) -> str:
    return f"the request's {what} is too long; send at most {most_bytes} bytes"
