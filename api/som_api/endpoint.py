"""A component's own HTTP endpoint: /healthz, /readyz, /metrics."""

import contextlib
import logging
import pathlib
from collections.abc import AsyncIterator, Callable

import prometheus_client
from aiohttp import web
from prometheus_client import registry

from som_api import SomError

_log = logging.getLogger(__name__)


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

    async def health(_: web.Request) -> web.Response:
        reason = unhealthy()
        if reason:
            _log.error("unhealthy: %s", reason)
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def readiness(_: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(text=f"{reason or 'ready'}\n", status=503 if reason else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=prometheus_client.generate_latest(collected),
            headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST},
        )

    app = web.Application()
    app.add_routes(
        [web.get("/healthz", health), web.get("/readyz", readiness), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await _site(runner, address).start()
        except OSError as error:
            raise EndpointError(f"serving the endpoint on {address}: {error}") from error
        yield
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, address: str) -> web.BaseSite:
    if address.startswith("unix:"):
        path = pathlib.Path(address.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        return web.UnixSite(runner, path)
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise EndpointError(f"--endpoint {address!r}: write HOST:PORT, or unix:PATH")
    return web.TCPSite(runner, host or None, int(port))
