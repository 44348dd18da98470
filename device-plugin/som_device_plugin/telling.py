"""Tells the operator whose memory the leases of this node are: `GET /leases` over mutual TLS.

The port is open to every pod where no network policy is enforced, so it costs the agent little
whoever comes: so many connections at a time, each for so long, and nothing is read before the
client has shown the operator's certificate. The answer comes from memory.

The certificates are minted by the operator, in a Secret that the chart mounts. Without them the
port stays closed, and everything else of the agent works.
"""

import asyncio
import datetime
import http
import logging
import pathlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NoReturn, cast

from som_api import SomError, endpoint, leases, tls, v1alpha1
from som_api.run import clock
from som_device_plugin import loops
from som_device_plugin.leases import state

AT_ONCE: Final = 16
HANDSHAKE_S: Final = 5.0
CONNECTION_S: Final = 10.0
FIRST_LOOK_S: Final = 1.0
LOOK_S: Final = 10.0
"""How soon new certificates are used; kubelet takes a minute to bring them."""
LONGEST_REQUEST: Final = 4096

_JSON: Final = "application/json"
_STATES: Final[dict[state.State, leases.State]] = {
    state.State.BUILDING: "Building",
    state.State.READY: "Ready",
    state.State.DELIVERED: "Delivered",
    state.State.RELEASING: "Releasing",
}
_log = logging.getLogger(__name__)


def report(of: Sequence[state.Lease]) -> leases.Report:
    """The leases that have an owner: one row per start, or one that waits for its first.

    What is kept for a successor is told once it has ended, and is not free.

    Where there are too many, the newest are told.
    """
    rows = [row for lease in of for row in _rows(lease)]
    return leases.Report(leases=tuple(rows[-leases.MOST :]))


def _rows(lease: state.Lease) -> Iterator[leases.Lease]:
    owner, request = lease.owner, lease.request
    if owner is None or request is None or (lease.is_kept and not lease.ended):
        return

    def row(record: state.StartRecord | None) -> leases.Lease:
        start = record.start if record else None
        told_at_s = record.told_at_s if record else None
        return leases.Lease(
            lease=lease.lease_id,
            start=start.number if start else 0,
            namespace=owner.namespace,
            pod=owner.pod,
            uid=owner.uid,
            container=owner.container,
            pool=start.pool if start else "",
            driver=cast(v1alpha1.DriverType, start.driver) if start else None,
            unit=request.unit,
            size_bytes=start.size_bytes if start else request.size_bytes,
            state=_STATES[record.state] if record else "Waiting",
            since=_rfc3339(told_at_s) if told_at_s is not None else None,
        )

    for record in lease.starts:
        yield row(record)
    if not lease.starts and not lease.ended:
        yield row(None)


def _rfc3339(moment_s: float) -> str:
    return datetime.datetime.fromtimestamp(moment_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Teller:
    """Serves `report` on `port` with the certificates of `directory`, until cancelled."""

    def __init__(
        self,
        directory: pathlib.Path,
        own: Callable[[], Sequence[state.Lease]],
        *,
        port: int = leases.PORT,
        time: clock.Clock,
    ) -> None:
        self._directory = directory
        self._own = own
        self._time = time
        self._tls = tls.Rotating(asks_clients=True)
        self._identity: tls.Identity | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.port = port

    async def run(self) -> NoReturn:
        """Wait for certificates, then serve."""
        while not await self._look():
            await self._time.sleep(FIRST_LOOK_S)
        with _listening(self.port) as listener:
            self.port = listener.getsockname()[1]
            _log.info("tells the operator of leases", extra={"port": self.port})
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_looking())
                await self._accept(listener, group)

    async def _keep_looking(self) -> NoReturn:
        while True:
            await self._time.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> bool:
        """Use the certificates that are there now, if they are others; False: there were none."""
        try:
            found = await asyncio.to_thread(self._read)
            if found and found != self._identity:
                self._tls.use(found)
                self._identity = found
        except (OSError, tls.BadCertificate) as error:
            # Kubelet changes all of them at once, so this is no moment between two.
            loops.failed("certificates", error)
        loops.rest()
        return self._identity is not None

    def _read(self) -> tls.Identity | None:
        """None: there are none yet."""
        names = ("tls.crt", "tls.key", "ca.crt")
        try:
            return tls.Identity(*((self._directory / name).read_bytes() for name in names))
        except FileNotFoundError:
            return None

    async def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except BaseException:
                self._slots.release()
                raise
            group.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        transport: asyncio.Transport | None = None
        reader = asyncio.StreamReader(limit=LONGEST_REQUEST)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECTION_S):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=self._tls.context,
                    ssl_handshake_timeout=HANDSHAKE_S,
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Not the operator, or it has gone.
            pass
        except Exception as error:
            loops.failed("telling of leases", error)
        finally:
            self._slots.release()
            if transport is not None:
                transport.abort()
            else:
                connection.close()

    def _answer(self, head: bytes) -> bytes:
        if head.split(b" ", 2)[:2] != [b"GET", leases.PATH.encode()]:
            return endpoint.answer(http.HTTPStatus.NOT_FOUND, _JSON, b"{}")
        body = report(self._own()).model_dump_json().encode()
        return endpoint.answer(http.HTTPStatus.OK, _JSON, body)


def _listening(port: int) -> socket.socket:
    """On all addresses of the pod, IPv6 where there is one."""
    has_both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if has_both else socket.AF_INET
    try:
        result = socket.create_server(("", port), family=family, dualstack_ipv6=has_both)
    except OSError as error:
        raise SomError(f"listening on port {port} for the operator: {error}") from error
    result.setblocking(False)
    return result
