"""Serves the fleet API over HTTPS: uvicorn's HTTP, with limits that it does not have.

Whoever does not finish a handshake or a request in time, or does not read what he asked for, is
cut off; and there are only so many connections. So strangers keep neither memory nor descriptors.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import h11
import uvicorn
from starlette import types
from uvicorn import server as uvicorn_server
from uvicorn.protocols.http import h11_impl

from som_api import SomError

HANDSHAKE_S: Final = 10.0
REQUEST_S: Final = 10.0
"""From a connection, or the first byte of a further request, to the end of the request."""
UNREAD_S: Final = 30.0
"""How long a client may leave what it was sent."""
IDLE_S: Final = 20
MOST_CONNECTIONS: Final = 512
MOST_HEADER_BYTES: Final = 16 * 2**10
LEAVING_S: Final = 1.0


class ServingError(SomError):
    """The fleet API cannot listen at its address."""


@contextlib.asynccontextmanager
async def serve(
    app: types.ASGIApp, *, address: str, tls: ssl.SSLContext
) -> AsyncIterator[asyncio.Server]:
    """Serve on `address` (`HOST:PORT`, all hosts without one) inside the block.

    Raises:
        ServingError: it cannot listen there, or the address is none.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ServingError(f"--api {address!r}: write HOST:PORT")
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
    )
    config.load()
    # What strangers send is no news; mistakes of ours are logged by `limits`.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    state = uvicorn_server.ServerState()
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(config, state, {}),
            host or None,
            int(port),
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_S,
        )
    except OSError as error:
        raise ServingError(f"serving the fleet API on {address}: {error}") from error
    try:
        yield server
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            _, late = await asyncio.wait(state.tasks, timeout=LEAVING_S)
            for task in late:
                task.cancel()


class _Protocol(h11_impl.H11Protocol):
    """One connection."""

    _impatience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._impatience = _cancelled(self._impatience)
        elif self._impatience is None:
            self._impatience = self.loop.call_later(REQUEST_S, self._cut_off)

    def on_response_complete(self) -> None:
        # What follows is uvicorn's own wait for a further request.
        self._impatience = _cancelled(self._impatience)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(UNREAD_S, self._cut_off)

    def resume_writing(self) -> None:
        self._unread = _cancelled(self._unread)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._impatience = _cancelled(self._impatience)
        self._unread = _cancelled(self._unread)
        super().connection_lost(exc)

    def _cut_off(self) -> None:
        self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> Any:
    if timer is not None:
        timer.cancel()
    return None
