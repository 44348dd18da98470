"""Keeps the device plugin registered with kubelet, whatever becomes of kubelet.

At its start kubelet removes every socket of its directory, and a plugin must notice and register
again; until then containers start without PreStartContainer. The directory is looked at four
times a second: two stats, which unlike inotify also survive the directory's replacement.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import secrets
import socket as sockets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import grpc
import prometheus_client

from som_api import SomError
from som_device_plugin import loops, metrics
from som_device_plugin.kubelet import deviceplugin_pb2, deviceplugin_pb2_grpc, plugin

LOOK_EVERY_S: Final = 0.25
REGISTER_TIMEOUT_S: Final = 15.0
"""Kubelet dials back before it answers, for up to 10 seconds."""

LONGEST_BACKOFF_S: Final = 10.0
UNWATCHED_S: Final = 5.0
"""Registered, but without a ListAndWatch for so long: kubelet has dropped the plugin."""

GRACE_S: Final = 0.2
"""For answers in flight; ListAndWatch has no end of its own."""

STALE_SOCKETS: Final = prometheus_client.Counter(
    "som_agent_stale_sockets_removed", "Sockets of dead som agents removed from kubelet's directory"
)

_log = logging.getLogger(__name__)


class RegistrationFailed(SomError):
    """Kubelet did not accept the plugin."""


@dataclasses.dataclass(frozen=True)
class _File:
    """Identity of a file: inode numbers alone are used again at once."""

    inode: int
    changed_ns: int


async def keep_registered(
    device_plugin: plugin.DevicePlugin, *, directory: Path, resource_name: str
) -> None:
    """Serves and registers `device_plugin` in kubelet's `directory`; runs until cancelled.

    Registers again when kubelet.sock is another file, when our own socket is gone, or when
    kubelet no longer watches. Failures are logged and tried again with back-off.
    """
    keep = functools.partial(_keep_registered, device_plugin, directory, resource_name)
    await loops.repeat("registration", keep)


async def _keep_registered(
    device_plugin: plugin.DevicePlugin, directory: Path, resource_name: str
) -> None:
    backoff_s = LOOK_EVERY_S
    while True:
        kubelet = await _appearance_of(directory / "kubelet.sock")
        _remove_stale_sockets(directory)
        async with _serving(device_plugin, directory) as own_socket:
            own = _look_at(own_socket)
            try:
                await _register(directory, endpoint=own_socket.name, resource_name=resource_name)
            except RegistrationFailed as failure:
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
                _log.warning("%s; trying again in %.1f s", failure, backoff_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s):
                        await _end_of(directory, kubelet=kubelet, own_socket=own_socket, own=own)
                continue
            backoff_s = LOOK_EVERY_S
            metrics.REGISTRATIONS.inc()
            _log.info("registered %s with kubelet as %s", resource_name, own_socket.name)
            why = await _end_of(
                directory, kubelet=kubelet, own_socket=own_socket, own=own, watched=device_plugin
            )
            _log.warning("registering again with kubelet: %s", why)


@contextlib.asynccontextmanager
async def _serving(device_plugin: plugin.DevicePlugin, directory: Path) -> AsyncIterator[Path]:
    """A server for `device_plugin` on a socket of a name that no process used before."""
    path = directory / f"som-{secrets.token_hex(4)}.sock"
    server = grpc.aio.server(options=plugin.RECEIVE_UNLIMITED)
    deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(device_plugin, server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    try:
        yield path
    finally:
        await server.stop(GRACE_S)
        path.unlink(missing_ok=True)


async def _register(directory: Path, *, endpoint: str, resource_name: str) -> None:
    request = deviceplugin_pb2.RegisterRequest(
        version=plugin.API_VERSION,
        endpoint=endpoint,
        resource_name=resource_name,
        options=plugin.OPTIONS,
    )
    address = directory / "kubelet.sock"
    async with grpc.aio.insecure_channel(f"unix://{address}") as channel:
        try:
            await deviceplugin_pb2_grpc.RegistrationStub(channel).Register(
                request, timeout=REGISTER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise RegistrationFailed(
                f"could not register {resource_name} with kubelet at {address}: "
                f"{error.details()} ({error.code().name})"
            ) from error


async def _appearance_of(path: Path) -> _File:
    while True:
        if (file := _look_at(path)) is not None:
            return file
        loops.beat()
        await asyncio.sleep(LOOK_EVERY_S)


async def _end_of(
    directory: Path,
    *,
    kubelet: _File,
    own_socket: Path,
    own: _File | None,
    watched: plugin.DevicePlugin | None = None,
) -> str:
    """Returns, with the reason, once this registration cannot stand any longer."""
    loop = asyncio.get_running_loop()
    last_watched = loop.time()
    while True:
        if _look_at(directory / "kubelet.sock") not in (kubelet, None):
            return "kubelet has started anew"
        if _look_at(own_socket) != own:
            return f"our socket {own_socket} is gone"
        if watched is None or watched.watchers > 0:
            last_watched = loop.time()
        elif loop.time() - last_watched > UNWATCHED_S:
            return f"kubelet has not watched our devices for {UNWATCHED_S:.0f} s"
        loops.beat()
        await asyncio.sleep(LOOK_EVERY_S)


def _look_at(path: Path) -> _File | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _File(inode=status.st_ino, changed_ns=status.st_ctime_ns)


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
