"""The ways in which a list or a watch fails, each as a `Failure` of the fake API server."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from fakes import api_server


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") == "true"


async def _open(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    return response


def _of_watches(
    fail: Callable[[web.Request, web.StreamResponse], Awaitable[None]],
) -> api_server.Failure:
    """A watch begins well, then `fail` has it; everything else is served."""

    async def failure(request: web.Request) -> web.StreamResponse | None:
        if not _is_watch(request):
            return None
        response = await _open(request)
        await fail(request, response)
        return response

    return failure


def _break(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


def in_stream_error(code: int, reason: str) -> api_server.Failure:
    """The watch begins well and sends an ERROR event."""

    @_of_watches
    async def fail(request: web.Request, response: web.StreamResponse) -> None:
        await api_server.send(response, "ERROR", api_server.status_object(code, reason, "no"))

    return fail


def http_error(
    code: int, reason: str, *, watch_only: bool = False, retry_after_s: int | None = None
) -> api_server.Failure:
    """The server refuses lists and watches, or `watch_only`."""

    async def fail(request: web.Request) -> web.StreamResponse | None:
        if watch_only and not _is_watch(request):
            return None
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        return api_server.status(code, reason, "no", headers=headers)

    return fail


@_of_watches
async def clean_close(request: web.Request, response: web.StreamResponse) -> None:
    """The watch ends well, at once."""


@_of_watches
async def abort_after_one_event(request: web.Request, response: web.StreamResponse) -> None:
    """The connection breaks after one event."""
    metadata = {"name": "noise", "resourceVersion": request.query["resourceVersion"]}
    item = {"metadata": metadata, "spec": {}}
    await api_server.send(response, "MODIFIED", item)
    _break(request)


@_of_watches
async def silence(request: web.Request, response: web.StreamResponse) -> None:
    """Half-open TCP: the watch begins, and nothing comes ever again."""
    await asyncio.sleep(3600)


async def silence_before_headers(request: web.Request) -> web.StreamResponse | None:
    """Half-open TCP: not even an answer to the request."""
    await asyncio.sleep(3600)
    return None


async def garbage(request: web.Request) -> web.StreamResponse | None:
    """Bytes that are no HTTP."""
    assert request.transport is not None
    request.transport.write(b"\x16\x03\x01\x00\xff\xfe" * 20)
    await asyncio.sleep(0.01)
    _break(request)
    return web.Response()


@_of_watches
async def garbage_in_stream(request: web.Request, response: web.StreamResponse) -> None:
    """A watch whose lines are no JSON."""
    await response.write(b"\xff\xfe\x00<html>\n" * 3)


async def truncated_json(request: web.Request) -> web.StreamResponse | None:
    """The answer ends in the middle of a JSON document, well as far as HTTP can see."""
    response = await _open(request)
    await response.write(json.dumps({"type": "ADDED", "object": {"metadata": {}}})[:-9].encode())
    return response


async def proxy_page(request: web.Request) -> web.StreamResponse | None:
    """A proxy answers 200 with a page of its own."""
    return web.Response(text="<html>please log in</html>", content_type="text/html")


async def empty_object(request: web.Request) -> web.StreamResponse | None:
    """A JSON answer that is no list."""
    return None if _is_watch(request) else web.json_response({})


ALL: dict[str, api_server.Failure] = {
    "in-stream ERROR 410": in_stream_error(410, "Expired"),
    "in-stream ERROR 500": in_stream_error(500, "InternalError"),
    "HTTP 410 on watch": http_error(410, "Expired", watch_only=True),
    "HTTP 410": http_error(410, "Expired"),
    "HTTP 500": http_error(500, "InternalError"),
    "HTTP 500 on watch": http_error(500, "InternalError", watch_only=True),
    "HTTP 401": http_error(401, "Unauthorized"),
    "HTTP 429 with Retry-After": http_error(429, "TooManyRequests", retry_after_s=1),
    "clean close at once": clean_close,
    "abort after one event": abort_after_one_event,
    "half-open TCP": silence,
    "half-open TCP before headers": silence_before_headers,
    "garbage bytes": garbage,
    "garbage in the stream": garbage_in_stream,
    "truncated JSON": truncated_json,
    "a proxy's page": proxy_page,
    "no list": empty_object,
}
