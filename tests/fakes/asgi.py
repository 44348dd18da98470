"""Requests to an ASGI application without sockets: what uvicorn would hand it."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette import types


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Stream:
    """An answer as it comes: `next()` is its next part; without `reads` none comes."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.start: types.Message = {}

    async def next(self) -> bytes:
        return await self.parts.get()


def _scope(method: str, target: str, token: str, headers: Mapping[str, str]) -> types.Scope:
    path, _, query = target.partition("?")
    given = {**({"Authorization": f"Bearer {token}"} if token else {}), **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "server": ("som", 443),
        "client": ("127.0.0.1", 1),
        "state": {},
    }


@contextlib.asynccontextmanager
async def stream(
    app: types.ASGIApp,
    target: str,
    *,
    token: str = "",
    method: str = "GET",
    body: bytes = b"",
    **headers: str,
) -> AsyncIterator[Stream]:
    """A request that is answered inside the block; its end is the client's hanging up."""
    sent, hung_up, result = False, asyncio.Event(), Stream()

    async def receive() -> types.Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: types.Message) -> None:
        await result.reads.wait()
        if message["type"] == "http.response.start":
            result.start = message
        else:
            result.parts.put_nowait(message.get("body", b""))
            if not message.get("more_body"):
                result.ended.set()

    scope = _scope(method, target, token, {k.replace("_", "-"): v for k, v in headers.items()})

    async def run() -> None:
        await app(scope, receive, send)

    task = asyncio.create_task(run())
    task.add_done_callback(lambda _: result.ended.set())
    try:
        yield result
    finally:
        hung_up.set()
        result.reads.set()
        await task


async def get(app: types.ASGIApp, target: str, *, token: str = "", **others: Any) -> Answer:
    """The whole answer to a request."""
    async with stream(app, target, token=token, **others) as answer:
        await answer.ended.wait()
    headers = {name.decode(): value.decode() for name, value in answer.start["headers"]}
    parts = []
    while not answer.parts.empty():
        parts.append(answer.parts.get_nowait())
    return Answer(answer.start["status"], headers, b"".join(parts))
