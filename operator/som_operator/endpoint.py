"""The operator's HTTP endpoint: /healthz, /readyz, /metrics."""

import contextlib
from collections.abc import AsyncIterator, Callable

import prometheus_client
from aiohttp import web
from prometheus_client import registry

from som_operator import OperatorError


@contextlib.asynccontextmanager
async def serve(
    *, address: str, is_ready: Callable[[], bool], collected: registry.CollectorRegistry
) -> AsyncIterator[None]:
    """Serve on `address`, `HOST:PORT` or `:PORT`, inside the block. Raises OperatorError."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(_: web.Request) -> web.Response:
        if is_ready():
            return web.Response(text="ready\n")
        return web.Response(text="the caches are not complete yet\n", status=503)

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
    host, _, port = address.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host or None, int(port)).start()
        except (OSError, ValueError) as error:
            raise OperatorError(f"serving on {address!r} (HOST:PORT): {error}") from error
        yield
    finally:
        await runner.cleanup()
