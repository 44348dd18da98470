"""The endpoint that agent and operator serve."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from prometheus_client import registry
from prometheus_client.core import Metric

from som_api import endpoint
from som_api.run import heartbeats


@contextlib.asynccontextmanager
async def session(tmp_path: pathlib.Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(f"{tmp_path}/socket")
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session


async def test_readiness_says_what_is_missing_until_nothing_is(tmp_path: pathlib.Path) -> None:
    (tmp_path / "socket").write_text("left by one that was killed")
    missing = ["starting"]
    async with (
        endpoint.serve(address=f"unix:{tmp_path}/socket", not_ready=lambda: "".join(missing)),
        session(tmp_path) as http,
    ):
        async with http.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "starting\n")
        async with http.get("/healthz") as answer:
            assert answer.status == 200
        missing.clear()
        async with http.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ready\n")


async def test_a_loop_that_hangs_makes_the_process_unhealthy_by_name(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [0.0]
    beats = heartbeats.Heartbeats(monotonic=lambda: now_s[0])
    beats.beat("inventory", within_s=60)
    beats.beat("watch of pods", within_s=600)
    async with (
        endpoint.serve(address=f"unix:{tmp_path}/socket", not_ready=str, unhealthy=beats.late),
        session(tmp_path) as http,
    ):
        async with http.get("/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        now_s[0] = 61
        async with http.get("/healthz") as answer:
            assert answer.status == 503
            assert await answer.text() == "inventory has not come round for 61 s\n"
    assert "inventory has not come round" in caplog.text


def test_a_loop_that_comes_round_or_rests_is_never_late() -> None:
    now_s = [0.0]
    beats = heartbeats.Heartbeats(monotonic=lambda: now_s[0])
    for _ in range(10):
        beats.beat("steady", within_s=60)
        beats.beat("waits for work", within_s=60)
        now_s[0] += 59
        assert beats.late() == ""
    beats.rest("waits for work")
    beats.beat("steady", within_s=60)
    now_s[0] += 60
    assert beats.late() == ""


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /metrics?name=a HTTP/1.1\r\n\r\n", b"HTTP/1.1 500 Internal Server Error"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"\xff\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"a" * 2 * endpoint.LONGEST_REQUEST, b""),
        (b"", b""),
    ],
)
async def test_every_request_is_answered_or_its_connection_ends(
    tmp_path: pathlib.Path, request_: bytes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    collected = registry.CollectorRegistry()
    collected.register(Broken())
    address = f"unix:{tmp_path}/socket"
    async with endpoint.serve(address=address, not_ready=str, collected=collected):
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/socket")
        writer.write(request_)
        writer.write_eof()
        try:
            said = await reader.read()
        except ConnectionResetError:
            said = b""
        writer.close()
    assert said.partition(b"\r\n")[0] == answer
    assert ("it is broken" in caplog.text) == (b"500" in answer)


async def test_strangers_who_ask_nothing_take_few_descriptors_and_no_answer(
    tmp_path: pathlib.Path,
) -> None:
    async with endpoint.serve(address=f"unix:{tmp_path}/socket", not_ready=str):
        silent = [
            await asyncio.open_unix_connection(f"{tmp_path}/socket")
            for _ in range(endpoint.MOST_CONNECTIONS + 5)
        ]
        for reader, _ in silent[:5]:
            assert await reader.read() == b""
        reader, asking = await asyncio.open_unix_connection(f"{tmp_path}/socket")
        asking.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
        assert not silent[-1][0].at_eof()
        for writer in (asking, *(writer for _, writer in silent)):
            writer.close()


def test_a_connection_at_the_end_of_the_process_is_no_error(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with endpoint.serve(address=f"unix:{tmp_path}/socket", not_ready=str):
            _, silent = await asyncio.open_unix_connection(f"{tmp_path}/socket")
            # Who is answered after it proves that it was accepted.
            async with session(tmp_path) as http, http.get("/healthz") as answer:
                assert answer.status == 200
        silent.close()

    asyncio.run(run())
    assert not caplog.records


class Broken(registry.Collector):
    def collect(self) -> Iterator[Metric]:
        raise ValueError("it is broken")

    def describe(self) -> Iterator[Metric]:
        return iter(())


@pytest.mark.parametrize("address", ["here", "here:", "unix:/none/socket"])
async def test_an_address_that_cannot_be_had_is_named(address: str) -> None:
    with pytest.raises(endpoint.EndpointError, match=address):
        async with endpoint.serve(address=address, not_ready=str):
            pass
