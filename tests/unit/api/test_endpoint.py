"""The endpoint that agent and operator serve."""

import contextlib
import pathlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

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


@pytest.mark.parametrize("address", ["here", "here:", "unix:/none/socket"])
async def test_an_address_that_cannot_be_had_is_named(address: str) -> None:
    with pytest.raises(endpoint.EndpointError, match=address):
        async with endpoint.serve(address=address, not_ready=str):
            pass
