"""At most 10 requests in 30 s in every failure, and recovery within 60 s."""

import contextlib

import pytest
from aiohttp import web

from fakes import failures
from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from som_api import kube
from som_api.kube import client as kube_client
from unit.kube.watching import QUICK_IDLE_TIMEOUT_S, Watching, node
from waiting import until

MOST_REQUESTS = 10
WINDOW_S = 30.0
RECOVERY_S = 60.0
SILENT = {"half-open TCP", "half-open TCP before headers", "no list"}
"""Who waits for one of them must not wait long; a busy machine may take long for the others."""


def most_in_window(times_s: list[float]) -> int:
    """The largest number of `times_s` in any half-open window of WINDOW_S."""
    return max(sum(start <= t < start + WINDOW_S for t in times_s) for start in times_s)


@pytest.mark.parametrize("name", failures.ALL)
async def test_requests_are_bounded_and_the_server_is_found_again(
    name: str,
    server: FakeApiServer,
    client: kube.Client,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience_s = QUICK_IDLE_TIMEOUT_S if name in SILENT else 5.0
    monkeypatch.setattr(kube_client, "ANSWER_TIMEOUT_S", patience_s)
    server.put("v1", "nodes", node("a"))
    watching = Watching(client, clock, idle_timeout_s=patience_s)
    async with watching.running():
        await watching.reflector.wait_synced()
        server.failure = failures.ALL[name]
        await server.end_watches()
        await until(lambda: clock.monotonic() > 3 * WINDOW_S)
        assert most_in_window([request.at_s for request in server.requests]) <= MOST_REQUESTS

        server.failure = None
        well_s = clock.monotonic()
        server.put("v1", "nodes", node("b"))
        await until(lambda: watching.seen.get("b") == "1")
        assert clock.monotonic() - well_s <= RECOVERY_S


async def test_a_refused_connection_is_not_hammered_and_the_server_is_found_again(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        await server.stop()
        await until(lambda: clock.monotonic() > 3 * WINDOW_S)
        attempts_s = [sum(clock.sleeps[:count]) for count in range(len(clock.sleeps))]
        assert most_in_window(attempts_s) <= MOST_REQUESTS / 2

        await server.start()
        well_s = clock.monotonic()
        server.put("v1", "nodes", node("b"))
        await until(lambda: watching.seen == {"b": "1"})
        assert clock.monotonic() - well_s <= RECOVERY_S


async def test_retry_after_is_waited_for(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.failure = failures.http_error(429, "TooManyRequests", retry_after_s=25)
    async with Watching(client, clock).running():
        await until(lambda: len(clock.sleeps) >= 3)
    assert min(clock.sleeps) >= 25


async def test_clients_that_lost_the_server_together_come_back_apart(
    server: FakeApiServer, client: kube.Client
) -> None:
    server.failure = failures.ALL["HTTP 500"]
    first_pauses_s = []
    async with contextlib.AsyncExitStack() as fleet:
        clocks = [FakeClock() for _ in range(20)]
        for seed, clock in enumerate(clocks):
            await fleet.enter_async_context(Watching(client, clock, seed=seed).running())
        await until(lambda: all(clock.sleeps for clock in clocks))
        first_pauses_s = [clock.sleeps[0] for clock in clocks]
    assert len(set(first_pauses_s)) == 20
    assert max(first_pauses_s) - min(first_pauses_s) > 1.0


async def test_a_version_that_the_server_refuses_for_ever_is_given_up(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    """A server restored from a backup is behind the version that its clients hold."""
    server.put("v1", "nodes", node("a"))

    async def refuse_old_version(request: web.Request) -> web.StreamResponse | None:
        if request.query.get("resourceVersion") == held:
            return await failures.ALL["HTTP 500"](request)
        return None

    async with Watching(client, clock).running() as watching:
        await until(lambda: "watch" in server.verbs())
        held = str(server.store.version)
        server.store.version += 1
        server.failure = refuse_old_version
        await server.end_watches()
        server.put("v1", "nodes", node("b"))
        await until(lambda: "b" in watching.seen)
    assert server.verbs()[:6] == ["list", "watch", "watch", "watch", "watch", "list"]
