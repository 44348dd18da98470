"""JSON requests to the API server.

Address, TLS, the rotation of service account tokens and exec credentials come from the official
client (`kubernetes.aio`). Its models, retries and watch are not used: they cost memory on every
node, and its watch either raises or floods the server on ordinary failures.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio import client as official
from kubernetes.aio import config as official_config

from som_api.kube import errors
from som_api.kube.resource import Json

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 20.0
REQUEST_TIMEOUT_S = 30.0

_APPLY = "application/apply-patch+yaml"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"

Params = Mapping[str, str | int | bool]


class Client:
    """JSON in, JSON out, on any path; every failure is one `KubeError`.

    Made by `connect`. Safe for many requests at once. Use it as an async context manager, or
    call `close`.
    """

    def __init__(self, api: official.ApiClient) -> None:
        self._api = api

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def get(self, path: str, *, params: Params | None = None) -> Json:
        """Read one object or one page of a collection."""
        return await self._request("GET", path, params=params)

    async def create(self, path: str, body: Json) -> Json:
        """POST `body` to a collection (or to a subresource such as `eviction`)."""
        return await self._request("POST", path, body=body)

    async def apply(self, path: str, body: Json, *, field_manager: str) -> Json:
        """Server-side apply: own exactly the fields of `body` and take them from other owners.

        Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
        """
        params: Params = {"fieldManager": field_manager, "force": True}
        return await self._request("PATCH", path, params=params, body=body, content_type=_APPLY)

    async def merge_patch(self, path: str, body: Json) -> Json:
        """JSON merge patch (RFC 7396): None removes a field, a list replaces a list."""
        return await self._request("PATCH", path, body=body, content_type=_MERGE_PATCH)

    async def json_patch(self, path: str, operations: list[Json]) -> Json:
        """JSON patch (RFC 6902): the operations in order, all or none; `test` guards them."""
        return await self._request("PATCH", path, body=operations, content_type=_JSON_PATCH)

    async def delete(self, path: str, *, options: Json | None = None) -> Json:
        """Delete an object; `options` is a DeleteOptions (preconditions, grace period)."""
        return await self._request("DELETE", path, body=options)

    async def watch(
        self, path: str, *, params: Params, idle_timeout_s: float
    ) -> AsyncGenerator[Json, None]:
        """Yield watch events as they come, and return when the server ends the watch.

        Raises KubeError for everything else, ERROR events inside the stream and a stream that
        was silent for `idle_timeout_s` included. Close the generator to end the watch.
        """
        attempted = f"watch {path}"
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_timeout_s
        )
        with _as_kube_error(attempted):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response = await self._send(
                    "GET", path, params={**params, "watch": True}, limits=limits
                )
        try:
            if response.status != 200:
                with _as_kube_error(attempted):
                    raise _refusal(attempted, response, await response.read())
            while True:
                with _as_kube_error(attempted):
                    line = await response.content.readline()
                    if not line:
                        return
                    event = _json_object(json.loads(line))
                    if event.get("type") == "ERROR":
                        raise _status_error(attempted, _json_object(event.get("object")))
                yield event
        finally:
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Json | list[Json] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        attempted = f"{method} {path}"
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=ANSWER_TIMEOUT_S
        )
        with _as_kube_error(attempted):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                response = await self._send(
                    method,
                    path,
                    params=params,
                    body=body,
                    content_type=content_type,
                    limits=limits,
                )
                async with response:
                    answer = await response.read()
            if not 200 <= response.status < 300:
                raise _refusal(attempted, response, answer)
            return _json_object(json.loads(answer))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        limits: aiohttp.ClientTimeout,
        params: Params | None = None,
        body: Json | list[Json] | None = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        method, url, headers, body, _ = await self._api.param_serialize(
            method,
            path,
            query_params=params,
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(method, url, headers, body, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response


@contextlib.contextmanager
def _as_kube_error(attempted: str) -> Iterator[None]:
    """Turn everything that connection, credentials and parsing raise into KubeError."""
    try:
        yield
    except errors.KubeError:
        raise
    except TimeoutError as error:
        raise errors.KubeError(
            attempted,
            status=0,
            reason="Timeout",
            message=f"the API server stayed silent ({error or 'no data'})",
        ) from error
    except (official_config.ConfigException, FileNotFoundError, PermissionError) as error:
        raise errors.KubeError(
            attempted, status=0, reason="Config", message=f"no valid credentials: {error}"
        ) from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise errors.KubeError(
            attempted,
            status=0,
            reason="NoAnswer",
            message=f"{error}; is the API server up, and reachable from here?",
        ) from error
    # ValueError: no JSON, no UTF-8, or a line longer than any Kubernetes object.
    except (aiohttp.ClientError, ValueError) as error:
        raise errors.KubeError(
            attempted,
            status=0,
            reason="BadAnswer",
            message=f"the answer is not what an API server sends: {error!r}",
        ) from error


def _json_object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {str(value)[:80]!r}")
    return value


def _refusal(attempted: str, response: aiohttp.ClientResponse, body: bytes) -> errors.KubeError:
    """The error for an HTTP status; the body is a metav1.Status, or a proxy's page."""
    try:
        status = _json_object(json.loads(body))
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
