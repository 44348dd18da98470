"""Requests that a watch loop sends to an API server that fails, one JSON line per failure.

    python benchmarks/watch_failures.py --seconds 30

For each way to fail: som's reflector, and the official client's `Watch` in the loop that its users
write (start again after every end and every error). Both run at the same time, each against a
fake server of its own. A loop that floods is ended at `MOST` requests, and `seconds` says when.
`raised` is the first error that the official `Watch` did not handle.
"""

import argparse
import asyncio
import json
import logging
import pathlib
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
from kubernetes.aio import client as official
from kubernetes.aio import watch as official_watch

from som_api import kube

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from fakes import api_server, failures

MOST = 500
REFUSED = "connection refused"


class Count:
    """Requests that one client has sent."""

    def __init__(self) -> None:
        self.requests = 0
        self.flooded = asyncio.Event()
        self.raised = ""

    async def _note(self, *_: object) -> None:
        self.requests += 1
        if self.requests >= MOST:
            self.flooded.set()

    def client(self, url: str) -> official.ApiClient:
        traces = aiohttp.TraceConfig()
        traces.on_request_start.append(self._note)
        return official.ApiClient(official.Configuration(host=url, trace_configs=[traces]))


async def som(api: official.ApiClient, count: Count) -> None:
    await kube.Reflector(
        kube.Client(api), kube.NODES, decode=lambda item: item, on_change=lambda *_: None
    ).run()


async def plain(api: official.ApiClient, count: Count) -> None:
    nodes, watch = official.CoreV1Api(api), official_watch.Watch()
    while True:
        try:
            async for _ in watch.stream(nodes.list_node):
                pass
        except Exception as error:
            count.raised = count.raised or type(error).__name__
        await asyncio.sleep(0)


async def measure(
    loop: Callable[[official.ApiClient, Count], Awaitable[None]],
    failure: api_server.Failure | None,
    seconds: float,
) -> tuple[Count, float]:
    """Requests of `loop` until `seconds` are over or it floods, and how long that took."""
    server, count = api_server.FakeApiServer(), Count()
    server.put("v1", "nodes", {"metadata": {"name": "a"}})
    server.failure = failure
    await server.start()
    if failure is None:
        await server.stop()
    async with count.client(server.url) as api:
        began_s = time.monotonic()
        running = asyncio.ensure_future(loop(api, count))
        flooded = asyncio.ensure_future(count.flooded.wait())
        await asyncio.wait([running, flooded], timeout=seconds, return_when="FIRST_COMPLETED")
        took_s = time.monotonic() - began_s
        for task in (running, flooded):
            task.cancel()
        await asyncio.wait([running, flooded])
    if failure is not None:
        await server.stop()
    return count, took_s


async def compare(name: str, failure: api_server.Failure | None, seconds: float) -> None:
    (ours, _), (theirs, took_s) = await asyncio.gather(
        measure(som, failure, seconds), measure(plain, failure, seconds)
    )
    line = {
        "failure": name,
        "som_requests": ours.requests,
        "official_requests": theirs.requests,
        "seconds": round(took_s, 1),
        "raised": theirs.raised,
    }
    print(json.dumps(line), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    ways: dict[str, api_server.Failure | None] = {**failures.ALL, REFUSED: None}
    await asyncio.gather(*(compare(name, failure, seconds) for name, failure in ways.items()))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main())
