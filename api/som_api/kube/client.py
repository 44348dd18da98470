r"""JSON requests to the API server.

Address, TLS, the rotation of service account tokens and exec credentials come from the official
client (`kubernetes.aio`). Its models, retries and watch are not used: they cost memory on every
node, and its watch either raises or floods the server on ordinary failures.

What strangers can write into an object bounds what comes here: the API server takes no request of
more than 3 MiB and writes up to six bytes for one (`<` as `\u003c`), so that one object can be a
line of 18 MiB. `MOST_BYTES` lies above that, and below what hurts.
"""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Self

import aiohttp
import pydantic_core
from kubernetes.aio import client as official
from kubernetes.aio.config import config_exception

from som_api.kube import errors, fence, requests
from som_api.kube.resource import Json

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
REQUEST_TIMEOUT_S = 30.0
MOST_BYTES = 32 * 2**20
PAGE_SIZE = 500
FLOOD_BYTES = 2**15
"""A quarter of what a stream's buffer takes before the server has to wait."""
DEEPEST = 100

_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]')

# A peer that is gone without a word is found after 30 + 3 * 5 s, whatever the stream expects.
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

# With the parameter, which the server ignores, the official client sends the text as it is.
_APPLY = "application/apply-patch+yaml; charset=utf-8"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
# What the server says of a patch that cannot be applied; of a result that is invalid it says why.
_PATCH_DOES_NOT_FIT = "the server rejected our request"

Params = Mapping[str, str | int | bool]
Gather = Callable[[], Awaitable[None]]


class Client:
    """JSON in, JSON out, on any path; every failure is one `KubeError`.

    Made by `connect`. Safe for many requests at once. Use it as an async context manager, whose
    end closes all connections.
    """

    def __init__(
        self,
        api: official.ApiClient,
        *,
        behind: fence.Fence | None = None,
        counted: requests.Requests | None = None,
    ) -> None:
        self._api = api
        self._fence = behind
        self.requests = counted or requests.Requests()

    def fenced(self, by: fence.Fence) -> Self:
        """This client, whose writes leave only while `by` is open: else they raise NotLeader.

        It lives as long as this one.
        """
        return type(self)(self._api, behind=by, counted=self.requests)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    async def get(self, path: str, *, params: Params | None = None) -> Json:
        """Read one object or one page of a collection.

        The reason of the KubeError is "TooLarge" for an answer of more than `MOST_BYTES`: ask
        for fewer objects.
        """
        return await self._request("GET", path, params=params)

    async def create(self, path: str, body: Json) -> Json:
        """POST `body` to a collection (or to a subresource such as `eviction`)."""
        return await self._request("POST", path, body=body)

    async def apply(self, path: str, body: Json, *, field_manager: str) -> Json:
        """Server-side apply: own exactly the fields of `body` and take them from other owners.

        Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
        """
        params: Params = {"fieldManager": field_manager, "force": True}
        # It is read as YAML, which knows no pairs of escapes for what is beyond U+FFFF.
        text = json.dumps(body, ensure_ascii=False).encode(errors="replace")
        return await self._request("PATCH", path, params=params, body=text, content_type=_APPLY)

    async def merge_patch(self, path: str, body: Json) -> Json:
        """JSON merge patch (RFC 7396): None removes a field, a list replaces a list."""
        return await self._request("PATCH", path, body=body, content_type=_MERGE_PATCH)

    async def json_patch(self, path: str, operations: list[Json]) -> Json:
        """JSON patch (RFC 6902): the operations in order, all or none; `test` guards them.

        The KubeError of a guard that does not hold is a conflict, as of a stale version: 409.
        """
        try:
            return await self._request("PATCH", path, body=operations, content_type=_JSON_PATCH)
        except errors.KubeError as error:
            if error.status == 422 and error.message.startswith(_PATCH_DOES_NOT_FIT):
                raise errors.KubeError(
                    f"PATCH {path}",
                    status=409,
                    reason="Conflict",
                    message="the object is not as expected; somebody changed it meanwhile",
                ) from error
            raise

    async def pages(self, path: str, *, params: Params | None = None) -> AsyncIterator[Json]:
        """The pages of a list: of `PAGE_SIZE` items, or of fewer where these are too large."""
        size, token = PAGE_SIZE, dict[str, str]()
        while True:
            try:
                page = await self.get(path, params={**(params or {}), "limit": size, **token})
            except errors.KubeError as error:
                if error.reason != "TooLarge" or size == 1:
                    raise
                size //= 2
                continue
            yield page
            if not page["metadata"].get("continue"):
                return
            size, token = min(PAGE_SIZE, size * 2), {"continue": page["metadata"]["continue"]}

    async def delete(self, path: str, *, uid: str = "") -> Json:
        """Delete an object; with `uid` that one, and no other of its name: a conflict (409)."""
        body = {"preconditions": {"uid": uid}} if uid else None
        return await self._request("DELETE", path, body=body)

    @contextlib.asynccontextmanager
    async def watch(
        self,
        path: str,
        *,
        params: Params,
        idle_timeout_s: float,
        gather: Gather | None = None,
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """Begin a watch: its events come as they happen, and end when the server ends the watch.

        `gather` is a pause after what has come was read, in which more comes together: to wake up
        for each event of a trickle costs more than to take it in. A flood is not slowed down.

        Raises KubeError for everything else, also while the events are read: ERROR events inside
        the stream and a stream that was silent for `idle_timeout_s` included.
        """
        attempted = f"watch {path}"
        with self.requests.measured("WATCH"), _as_kube_error(attempted):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response = await self._send(
                    "GET", path, silent_s=idle_timeout_s, params={**params, "watch": True}
                )
            if response.status != 200:
                async with response:
                    raise _refusal(attempted, response, await _whole(response.content))
        try:
            with _as_kube_error(attempted):
                _keep_alive(response)
            async with contextlib.aclosing(_events(attempted, response.content, gather)) as events:
                yield events
        finally:
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Json | list[Json] | bytes | None = None,
        content_type: str = "application/json",
    ) -> Json:
        attempted = f"{method} {path}"
        with (
            self._allowed(method, attempted) as limit_s,
            self.requests.measured(method),
            _as_kube_error(attempted),
        ):
            async with asyncio.timeout(limit_s):
                response = await self._send(
                    method,
                    path,
                    silent_s=ANSWER_TIMEOUT_S,
                    params=params,
                    body=body,
                    content_type=content_type,
                )
                async with response:
                    answer = await _whole(response.content)
            if not 200 <= response.status < 300:
                raise _refusal(attempted, response, answer)
            return _parsed(answer)

    def _allowed(self, method: str, attempted: str) -> contextlib.AbstractContextManager[float]:
        """The seconds that the request may take. Raises NotLeader."""
        if self._fence is None or method == "GET":
            return contextlib.nullcontext(REQUEST_TIMEOUT_S)
        return self._fence.writing(attempted)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        silent_s: float,
        params: Params | None = None,
        body: Json | list[Json] | bytes | None = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        """Send a request; the server may be silent for `silent_s` at a time."""
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silent_s
        )
        headers = {"Accept": "application/json", "Content-Type": content_type}
        method, url, headers, body, _ = await self._api.param_serialize(
            method,
            path,
            query_params=params,
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        # Credentials may have taken a while.
        if self._fence is not None and method != "GET":
            self._fence.check(f"{method} {path}")
        answer = await self._api.call_api(method, url, headers, body, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response


class _TooLarge(Exception):
    """More than MOST_BYTES came."""


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """All of an answer."""
    answer = bytearray()
    async for chunk in content.iter_any():
        answer += chunk
        if len(answer) > MOST_BYTES:
            raise _TooLarge
    return bytes(answer)


async def _events(
    attempted: str, content: aiohttp.StreamReader, gather: Gather | None
) -> AsyncGenerator[Json, None]:
    """The events of a watch's stream."""
    async with contextlib.aclosing(_lines(content, gather)) as lines:
        # What the one who reads the events raises does not come in here.
        with _as_kube_error(attempted):
            async for line in lines:
                event = _parsed(line)
                if event.get("type") == "ERROR":
                    raise _status_error(attempted, _json_object(event.get("object")))
                yield event


async def _lines(
    content: aiohttp.StreamReader, gather: Gather | None
) -> AsyncGenerator[bytes, None]:
    """The lines of a stream, each with its end; what follows the last one, too.

    What was less than `FLOOD_BYTES` at once is a trickle, and the rest of it is let gather.

    `StreamReader.readline` refuses lines of more than twice the session's buffer.
    """
    begun = bytearray()
    async for chunk in content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield bytes(begun) + line + b"\n"
            begun.clear()
        begun += rest
        if len(begun) > MOST_BYTES:
            raise _TooLarge
        if gather is not None and len(chunk) < FLOOD_BYTES:
            await gather()
    if begun:
        yield bytes(begun)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    if connection is None or connection.transport is None:
        return  # A server that was quick to answer and to end it.
    stream = connection.transport.get_extra_info("socket")
    for level, option, value in _KEEP_ALIVE:
        stream.setsockopt(level, option, value)


@contextlib.contextmanager
def _as_kube_error(attempted: str) -> Iterator[None]:
    """Turn whatever connection, credentials and parsing raise into KubeError.

    Everything, because a stream can raise more than its documentation says, and what one answer
    raises concerns that answer and nothing else.
    """
    try:
        yield
    except errors.KubeError:
        raise
    except Exception as error:
        reason, message = _explained(error)
        raise errors.KubeError(attempted, status=0, reason=reason, message=message) from error


def _explained(error: Exception) -> tuple[str, str]:
    """(reason, message) of what is no answer of an API server."""
    match error:
        case TimeoutError():
            return "Timeout", f"the API server stayed silent ({error or 'no data'})"
        case config_exception.ConfigException() | FileNotFoundError() | PermissionError():
            return "Config", f"no valid credentials: {error}"
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return "NoAnswer", f"{error}; is the API server up, and reachable from here?"
        case _TooLarge():
            return "TooLarge", f"the answer is longer than {MOST_BYTES} bytes"
        case _:
            return "BadAnswer", f"the answer is not what an API server sends: {error!r}"


def _parsed(document: bytes) -> Json:
    with contextlib.suppress(ValueError):
        # Half the time of Python's parser, and the strings of a fleet's objects are shared.
        return _json_object(pydantic_core.from_json(document))
    # Its bounds are narrower than those of the API server.
    try:
        return _json_object(json.loads(document))
    except RecursionError:
        return _json_object(json.loads(_shallow(document)))


def _shallow(document: bytes) -> bytes:
    """`document` with null in place of what is nested deeper than `DEEPEST`.

    Anybody may nest the managedFields of his Pod 10 000 deep, and Python's parser gives up at a
    tenth of that. No field that a kind has is nested as deep as `DEEPEST`.
    """
    kept: list[bytes] = []
    depth, start = 0, 0
    for token in _TOKENS.finditer(document):
        if token[0] in b"{[":
            depth += 1
            if depth == DEEPEST + 1:
                kept += (document[start : token.start()], b"null")
        elif token[0] in b"}]":
            if depth == DEEPEST + 1:
                start = token.end()
            depth -= 1
    return b"".join((*kept, document[start:]))


def _json_object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {str(value)[:80]!r}")
    return value


def _refusal(attempted: str, response: aiohttp.ClientResponse, body: bytes) -> errors.KubeError:
    """The error for an HTTP status; the body is a metav1.Status, or a proxy's page."""
    try:
        status = _parsed(body)
    except ValueError:
        status = {"message": body[:200].decode(errors="replace")}
    status = {"reason": response.reason, **status, "code": response.status}
    return _status_error(attempted, status, retry_after=response.headers.get("Retry-After", ""))


def _status_error(attempted: str, status: Json, *, retry_after: str = "") -> errors.KubeError:
    code = status.get("code")
    return errors.KubeError(
        attempted,
        status=code if isinstance(code, int) else 500,
        reason=str(status.get("reason") or "Unknown"),
        message=str(status.get("message") or "the server gave no message"),
        retry_after_s=float(retry_after) if retry_after.isdigit() else None,
    )
