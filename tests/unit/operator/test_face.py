"""From an agent's port to the fleet API: mutual TLS, and who is not let in."""

import asyncio
import contextlib
import datetime
import pathlib
import ssl
from collections.abc import AsyncIterator

import pytest

from som_api import leases, tls
from som_api.run import clock
from som_device_plugin import seams, telling
from som_device_plugin.leases import state
from som_operator import certificates
from waiting import until

KEPT = certificates.renewed(
    certificates.Kept({}, {}), namespace="n", now=datetime.datetime.now(datetime.UTC)
)


def lease(number: int = 1) -> state.Lease:
    lease_id = seams.LeaseId(f"{number:016x}")
    start = seams.Start(lease_id, 1, "databases", 0, 2**30, 2**21, "HugeTLBFS")
    return state.Lease(
        lease_id,
        seams.Ticket("n0-1"),
        number,
        owner=seams.Owner("shop", "pod", "app", seams.PodUid("uid")),
        request=seams.ContainerRequest("app", "2Mi", 512),
        starts=(state.StartRecord(start, state.State.DELIVERED, "boot", 1795860000.0),),
    )


def test_a_report_has_owned_leases_alone() -> None:
    nobodys = state.Lease(seams.LeaseId("a" * 16), seams.Ticket("n0-2"), 2)
    (row,) = telling.report([lease(), nobodys]).leases
    assert (row.namespace, row.size_bytes, row.state) == ("shop", 2**30, "Delivered")
    assert row.since == "2026-11-28T10:00:00Z"


def test_a_report_has_a_bound() -> None:
    found = telling.report([lease(number) for number in range(leases.MOST + 1)]).leases
    assert len(found) == leases.MOST
    assert found[-1].lease == f"{leases.MOST:016x}"


def write(directory: pathlib.Path, pems: certificates.Pems = KEPT.agent) -> None:
    for name, pem in pems.items():
        (directory / name).write_bytes(pem)


@contextlib.asynccontextmanager
async def agent(directory: pathlib.Path) -> AsyncIterator[telling.Teller]:
    teller = telling.Teller(directory, lambda: [lease()], port=0, time=clock.SystemClock())
    task = asyncio.create_task(teller.run())
    await until(lambda: teller.port != 0)
    yield teller
    task.cancel()


def context(name: str = "client", *, of: certificates.Pems = KEPT.operator) -> ssl.SSLContext:
    return tls.client_context(tls.Identity(of[f"{name}.crt"], of[f"{name}.key"], of["ca.crt"]))


async def ask(
    teller: telling.Teller, by: ssl.SSLContext, request: bytes = b"GET /leases HTTP/1.1\r\n\r\n"
) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", teller.port, ssl=by, server_hostname=certificates.AGENT_NAME
    )
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def test_the_operator_hears_of_leases(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    async with agent(tmp_path) as teller:
        answer = await ask(teller, context())
    report = leases.Report.model_validate_json(answer.partition(b"\r\n\r\n")[2])
    assert report == telling.report([lease()])


@pytest.mark.parametrize("who", ["nobody", "an agent", "the API", "another release"])
async def test_nobody_else_does(who: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.load_verify_locations(cadata=KEPT.operator["ca.crt"].decode())
    other = certificates.renewed(
        certificates.Kept({}, {}), namespace="n", now=datetime.datetime.now(datetime.UTC)
    )
    strange = context(of={**other.operator, "ca.crt": KEPT.operator["ca.crt"]})
    by = {
        "nobody": nobody,
        "an agent": context("tls", of=KEPT.agent),
        "the API": context("tls"),
        "another release": strange,
    }[who]
    async with agent(tmp_path) as teller:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert b"shop" not in await ask(teller, by)


@pytest.mark.parametrize("request_", [b"GET /other HTTP/1.1\r\n\r\n", b"x" * 10000, b"\r\n\r\n"])
async def test_strange_requests_end(request_: bytes, tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    async with agent(tmp_path) as teller:
        with contextlib.suppress(ConnectionError):
            assert b"shop" not in await ask(teller, context(), request_)
        assert b"shop" in await ask(teller, context())


async def test_who_says_nothing_gives_his_place_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "HANDSHAKE_S", 0.5)
    write(tmp_path)
    async with agent(tmp_path) as teller, contextlib.AsyncExitStack() as stack:
        for _ in range(telling.AT_ONCE):
            _, writer = await asyncio.open_connection("127.0.0.1", teller.port)
            stack.callback(writer.close)
        answer = b""
        async with asyncio.timeout(60):
            while b"shop" not in answer:
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    answer = await ask(teller, context())


async def test_new_certificates_are_used(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "LOOK_S", 0.01)
    write(tmp_path)
    other = certificates.renewed(
        certificates.Kept({}, {}), namespace="n", now=datetime.datetime.now(datetime.UTC)
    )
    async with agent(tmp_path) as teller, asyncio.timeout(30):
        write(tmp_path, other.agent)
        while True:
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                if b"shop" in await ask(teller, context(of=other.operator)):
                    break
            await asyncio.sleep(0.01)
