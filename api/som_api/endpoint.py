"""A component's own HTTP endpoint: /healthz, /readyz, /metrics.

One answer for each connection, which takes no web server: that of aiohttp would cost each node
2 MB.
"""

import asyncio
import contextlib
import http
import logging
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import prometheus_client
from prometheus_client import registry

from som_api import SomError

CONNECTION_S: Final = 10.0
LONGEST_REQUEST: Final = 16384
MOST_CONNECTIONS: Final = 64
"""At once; one more ends the oldest. Else strangers could have all descriptors of the process."""

_WAITING: Final = 16
"""Connections that nobody has accepted: a process accepts so many at once."""

_TEXT: Final = "text/plain; charset=utf-8"
_log = logging.getLogger(__name__)

_Page = Callable[[], tuple[http.HTTPStatus, str, bytes]]
"""Status, content type and content."""


class EndpointError(SomError):
    """The endpoint cannot listen at its address."""


@contextlib.asynccontextmanager
async def serve(
    *,
    address: str,
    not_ready: Callable[[], str],
    unhealthy: Callable[[], str] = str,
    collected: registry.CollectorRegistry = registry.REGISTRY,
) -> AsyncIterator[None]:
    """Serve on `address` (`HOST:PORT`, or `unix:PATH`) inside the block.

    `not_ready` answers why the component is not ready, or "" when it is. `unhealthy` answers
    what only a new start of the process can cure (see `heartbeats`), or "": /healthz says it
    with 503, and so does the log, because kubelet shows only the 503 when it kills.

    Raises:
        EndpointError: it cannot listen there, or the address is none.
    """

    def health() -> tuple[http.HTTPStatus, str, bytes]:
        if reason := unhealthy():
            _log.error("unhealthy: %s", reason)
        return _said(reason, otherwise="ok")

    pages: dict[bytes, _Page] = {
        b"/healthz": health,
        b"/readyz": lambda: _said(not_ready(), otherwise="ready"),
        b"/metrics": lambda: (
            http.HTTPStatus.OK,
            prometheus_client.CONTENT_TYPE_LATEST,
            prometheus_client.generate_latest(collected),
        ),
    }

    # The oldest first.
    connections: dict[asyncio.WriteTransport, None] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[writer.transport] = None
        if len(connections) > MOST_CONNECTIONS:
            oldest = next(iter(connections))
            del connections[oldest]
            oldest.abort()
        try:
            async with asyncio.timeout(CONNECTION_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(answer(*_page(head, pages)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # He speaks no HTTP, or has gone.
            pass
        except asyncio.CancelledError:
            # The process ends. Python 3.11 would log that as an error of ours.
            pass
        finally:
            connections.pop(writer.transport, None)
            writer.transport.abort()

    try:
        server = await _listen(address, connected)
    except OSError as error:
        raise EndpointError(f"serving the endpoint on {address}: {error}") from error
    try:
        yield
    finally:
        server.close()


async def _listen(
    address: str,
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> asyncio.Server:
    if address.startswith("unix:"):
        path = pathlib.Path(address.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(
            connected, path, limit=LONGEST_REQUEST, backlog=_WAITING
        )
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise EndpointError(f"--endpoint {address!r}: write HOST:PORT, or unix:PATH")
    return await asyncio.start_server(
        connected, host or None, int(port), limit=LONGEST_REQUEST, backlog=_WAITING
    )


def _said(reason: str, *, otherwise: str) -> tuple[http.HTTPStatus, str, bytes]:
    status = http.HTTPStatus.SERVICE_UNAVAILABLE if reason else http.HTTPStatus.OK
    return status, _TEXT, f"{reason or otherwise}\n".encode()


def _page(head: bytes, pages: Mapping[bytes, _Page]) -> tuple[http.HTTPStatus, str, bytes]:
    """What a request that begins with `head` asks for."""
    method, target = [*head.split(b" ", 2), b""][:2]
    page = pages.get(target.partition(b"?")[0])
    if method != b"GET" or page is None:
        return http.HTTPStatus.NOT_FOUND, _TEXT, b"not found\n"
    try:
        return page()
    except Exception:
        _log.exception("no answer to %s", target)
        return http.HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"the log says why\n"


def answer(status: http.HTTPStatus, kind: str, content: bytes) -> bytes:
    """HTTP/1.1, and the connection ends with it. `kind`: the content's type."""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    ).encode() + content
