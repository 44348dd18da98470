"""The endpoint that agent and operator serve."""

import pathlib

import aiohttp
import pytest

from som_api import endpoint


async def test_readiness_says_what_is_missing_until_nothing_is(tmp_path: pathlib.Path) -> None:
    (tmp_path / "socket").write_text("left by one that was killed")
    missing = ["starting"]
    async with (
        endpoint.serve(address=f"unix:{tmp_path}/socket", not_ready=lambda: "".join(missing)),
        aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(f"{tmp_path}/socket")
        ) as session,
    ):
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "starting\n")
        async with session.get("/healthz") as answer:
            assert answer.status == 200
        missing.clear()
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ready\n")


@pytest.mark.parametrize("address", ["here", "here:", "unix:/none/socket"])
async def test_an_address_that_cannot_be_had_is_named(address: str) -> None:
    with pytest.raises(endpoint.EndpointError, match=address):
        async with endpoint.serve(address=address, not_ready=str):
            pass
