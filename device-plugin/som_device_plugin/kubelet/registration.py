"""Keeps the device plugin registered with kubelet, whatever becomes of kubelet.

At its start kubelet removes every socket of its directory, and a plugin must notice and register
again; until then containers start without PreStartContainer. The directory is looked at four
times a second: two stats, which unlike inotify also survive the directory's replacement.
"""

import contextlib
import logging
import math
import random
import secrets
import socket as sockets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import grpc
import prometheus_client

from som_api import SomError, v1alpha1
from som_api.run import backoff, clock
from som_device_plugin import loops, metrics
from som_device_plugin.kubelet import deviceplugin_pb2, deviceplugin_pb2_grpc, plugin

LOOK_EVERY_S: Final = 0.25
REGISTER_TIMEOUT_S: Final = 15.0
"""Kubelet dials back before it answers, for up to 10 seconds."""

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
UNWATCHED_S: Final = 5.0
"""Registered, but without a ListAndWatch for so long: kubelet has dropped the plugin."""

GRACE_S: Final = 0.2
"""For answers in flight; ListAndWatch has no end of its own."""

STALE_SOCKETS: Final = prometheus_client.Counter(
    "som_agent_stale_sockets_removed", "Sockets of dead som agents removed from kubelet's directory"
)

_log = logging.getLogger(__name__)

_Identity = tuple[int, int]
"""Of a file: inode and time of change, because inode numbers alone are used again at once."""


class RegistrationFailed(SomError):
    """Kubelet did not accept the plugin."""


class Registration:
    """Serves `device_plugin` in kubelet's `directory`, and registers it there.

    Registers again when kubelet.sock is another file, when our own socket is gone, or when
    kubelet no longer watches. Failures are logged and tried again with back-off.
    """

    def __init__(
        self, device_plugin: plugin.DevicePlugin, *, directory: Path, time: clock.Clock
    ) -> None:
        self._plugin = device_plugin
        self._directory = directory
        self._kubelet = directory / "kubelet.sock"
        self._time = time
        self._pauses = backoff.Backoff(
            jitter=random.Random(), first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S
        )

    async def run(self) -> None:
        """Keep it registered until cancelled."""
        await loops.repeat("registration", self._register_once, time=self._time)

    async def _register_once(self) -> None:
        """Returns when this registration, or the try, is over."""
        while (kubelet := _look_at(self._kubelet)) is None:
            loops.beat()
            await self._time.sleep(LOOK_EVERY_S)
        _remove_stale_sockets(self._directory)
        async with self._serving() as own_socket:
            own = _look_at(own_socket)
            try:
                await self._register(own_socket.name)
            except RegistrationFailed as failure:
                pause_s = self._pauses.next_s()
                _log.warning("%s; trying again in %.1f s", failure, pause_s)
                with contextlib.suppress(TimeoutError):
                    async with self._time.timeout(pause_s):
                        await self._end_of(kubelet, own_socket, own, unwatched_s=math.inf)
                return
            self._pauses.reset()
            metrics.REGISTRATIONS.inc()
            _log.info("registered %s with kubelet as %s", v1alpha1.TICKET_RESOURCE, own_socket.name)
            why = await self._end_of(kubelet, own_socket, own, unwatched_s=UNWATCHED_S)
            _log.warning("registering again with kubelet: %s", why)

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[Path]:
        """A server for the plugin on a socket of a name that no process used before."""
        path = self._directory / f"som-{secrets.token_hex(4)}.sock"
        server = grpc.aio.server(options=plugin.RECEIVE_UNLIMITED)
        deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(self._plugin, server)
        server.add_insecure_port(f"unix://{path}")
        await server.start()
        try:
            yield path
        finally:
            await server.stop(GRACE_S)
            path.unlink(missing_ok=True)

    async def _register(self, endpoint: str) -> None:
        request = deviceplugin_pb2.RegisterRequest(
            version=plugin.API_VERSION,
            endpoint=endpoint,
            resource_name=v1alpha1.TICKET_RESOURCE,
            options=plugin.OPTIONS,
        )
        async with grpc.aio.insecure_channel(f"unix://{self._kubelet}") as channel:
            try:
                await deviceplugin_pb2_grpc.RegistrationStub(channel).Register(
                    request, timeout=REGISTER_TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                raise RegistrationFailed(
                    f"could not register {v1alpha1.TICKET_RESOURCE} with kubelet at "
                    f"{self._kubelet}: {error.details()} ({error.code().name})"
                ) from error

    async def _end_of(
        self, kubelet: _Identity, own_socket: Path, own: _Identity | None, *, unwatched_s: float
    ) -> str:
        """Returns, with the reason, once this registration cannot stand any longer."""
        last_watched_s = self._time.monotonic()
        while True:
            if _look_at(self._kubelet) not in (kubelet, None):
                return "kubelet has started again"
            if _look_at(own_socket) != own:
                return f"our socket {own_socket} is gone"
            if self._plugin.watchers > 0:
                last_watched_s = self._time.monotonic()
            elif self._time.monotonic() - last_watched_s > unwatched_s:
                return f"kubelet has not watched our devices for {unwatched_s:.0f} s"
            loops.beat()
            await self._time.sleep(LOOK_EVERY_S)


def _look_at(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _remove_stale_sockets(directory: Path) -> None:
    for path in directory.glob("som-*.sock"):
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
                STALE_SOCKETS.inc()
                _log.info("removed %s, the socket of a som agent that is gone", path)
            except OSError as error:
                _log.debug("left %s alone: %s", path, error)
