"""The HTTPS server on loopback: certificates that change, and clients that take their time."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator

import pytest
from starlette import types

from fakes.fleet import FakeFleet
from fakes.reviewer import ADMIN, FakeReviewer
from som_api import tls
from som_api.web import app, serving
from som_operator import certificates
from waiting import until

NOW = datetime.datetime.now(datetime.UTC)
AS_ADMIN = f"Authorization: Bearer {ADMIN}\r\n"
NOTHING = certificates.Kept({}, {})


def minted(old: certificates.Kept = NOTHING) -> certificates.Kept:
    return certificates.renewed(old, namespace="som-system", now=NOW)


def identity(pems: certificates.Pems, name: str = "tls") -> tls.Identity:
    return tls.Identity(pems[f"{name}.crt"], pems[f"{name}.key"], pems["ca.crt"])


def trusting(pems: certificates.Pems) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pems["ca.crt"].decode())


@contextlib.asynccontextmanager
async def served(application: types.ASGIApp, rotating: tls.Rotating) -> AsyncIterator[int]:
    async with serving.serve(application, address="127.0.0.1:0", tls=rotating.context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_new_certificate_refuses_no_request() -> None:
    first = minted()
    # Of the same authority, as after 60 days.
    kept = {name: pem for name, pem in first.operator.items() if not name.startswith("tls.")}
    second = minted(certificates.Kept(kept, first.agent))
    assert second.operator["ca.crt"] == first.operator["ca.crt"]
    rotating = tls.Rotating(asks_clients=False)
    rotating.use(identity(first.operator))
    seen, stop = set[bytes](), asyncio.Event()

    request = f"GET /api/v1/pools HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{AS_ADMIN}\r\n"

    async def ask(port: int) -> None:
        trusted = trusting(first.operator)
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("localhost", port, ssl=trusted)
            seen.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            writer.write(request.encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()

    async with (
        served(app.create(FakeFleet(3), FakeReviewer()), rotating) as port,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(3):
            group.create_task(ask(port))
        await until(lambda: len(seen) == 1)
        rotating.use(identity(second.operator))
        await until(lambda: len(seen) == 2)
        stop.set()


async def test_without_a_certificate_no_handshake_succeeds() -> None:
    async with served(
        app.create(FakeFleet(1), FakeReviewer()), tls.Rotating(asks_clients=False)
    ) as port:
        with pytest.raises(OSError):
            await asyncio.open_connection("localhost", port, ssl=trusting(minted().operator))


async def test_a_bad_certificate_leaves_the_last_one() -> None:
    rotating = tls.Rotating(asks_clients=False)
    pems = minted().operator
    rotating.use(identity(pems))
    with pytest.raises(tls.BadCertificate):
        rotating.use(tls.Identity(b"no certificate", b"", pems["ca.crt"]))
    async with served(app.create(FakeFleet(1), FakeReviewer()), rotating) as port:
        _, writer = await asyncio.open_connection("localhost", port, ssl=trusting(pems))
        writer.close()


@contextlib.asynccontextmanager
async def connected(
    *, nodes: int = 3
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    pems = minted().operator
    rotating = tls.Rotating(asks_clients=False)
    rotating.use(identity(pems))
    async with served(app.create(FakeFleet(nodes), FakeReviewer()), rotating) as port:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting(pems))
        yield reader, writer
        writer.close()
        writer.transport.abort()


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
    ],
)
async def test_who_does_not_finish_a_request_is_cut_off(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "REQUEST_S", 0.05)
    # What was answered before its end was read is waited for as a further request.
    monkeypatch.setattr(serving, "IDLE_S", 0.1)
    async with connected() as (reader, writer), asyncio.timeout(30):
        writer.write(begun)
        with contextlib.suppress(ConnectionError):
            assert b" 200 " not in await reader.read()


async def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "UNREAD_S", 0.05)
    cut_off = asyncio.Event()
    transport_abort = serving._Protocol._cut_off

    def note(protocol: serving._Protocol) -> None:
        cut_off.set()
        transport_abort(protocol)

    monkeypatch.setattr(serving._Protocol, "_cut_off", note)
    async with connected(nodes=400) as (_, writer), asyncio.timeout(60):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(f"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\n{AS_ADMIN}\r\n".encode() * 60)
        await cut_off.wait()


async def test_headers_have_an_end() -> None:
    async with connected() as (reader, writer), asyncio.timeout(30):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2 * serving.MOST_HEADER_BYTES)
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in await reader.read()


async def test_an_address_that_is_none() -> None:
    with pytest.raises(serving.ServingError, match="HOST:PORT"):
        async with serving.serve(
            app.create(FakeFleet(1), FakeReviewer()),
            address="localhost",
            tls=tls.Rotating(asks_clients=False).context,
        ):
            pass
    with pytest.raises(serving.ServingError, match=r"192\.0\.2\.1"):
        async with serving.serve(
            app.create(FakeFleet(1), FakeReviewer()),
            address="192.0.2.1:1",
            tls=tls.Rotating(asks_clients=False).context,
        ):
            pass
