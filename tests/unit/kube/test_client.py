import asyncio
import contextlib
import datetime
import functools
import json
import pathlib
import ssl
import stat
import subprocess
import types
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
import yaml
from aiohttp import web
from kubernetes.aio.config import incluster_config

from fakes import failures
from fakes.api_server import FakeApiServer
from som_api import kube
from som_api.kube import client as kube_client

PATH = kube.NODES.path(name="a")


def write_kubeconfig(path: pathlib.Path, server: FakeApiServer, user: kube.Json) -> pathlib.Path:
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": server.url}}],
        "users": [{"name": "test", "user": user}],
    }
    path.write_text(yaml.safe_dump(kubeconfig))
    return path


def write_exec_plugin(path: pathlib.Path, *, valid_s: int) -> pathlib.Path:
    """A credential plugin whose token is t1, t2, ... with each call."""
    path.write_text(
        f"""#!/bin/sh
echo called >> {path}.calls
expiry=$(date -u -d '+{valid_s} seconds' +%Y-%m-%dT%H:%M:%SZ)
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status":'
echo "{{\\"token\\": \\"t$(wc -l < {path}.calls)\\", \\"expirationTimestamp\\": \\"$expiry\\"}}}}"
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(autouse=True)
def outside_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


async def test_a_token_of_a_kubeconfig_is_sent(
    server: FakeApiServer, tmp_path: pathlib.Path
) -> None:
    server.put("v1", "nodes", {"metadata": {"name": "a"}})
    server.token = "Bearer secret"
    path = write_kubeconfig(tmp_path / "config", server, {"token": "secret"})
    async with await kube.connect(user_agent="som-test/1", kubeconfig=path) as client:
        assert (await client.get(PATH))["metadata"]["name"] == "a"
    assert server.requests[0].headers["User-Agent"] == "som-test/1"


async def test_the_kubeconfig_of_the_environment_is_used(
    server: FakeApiServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("v1", "nodes", {"metadata": {"name": "a"}})
    path = write_kubeconfig(tmp_path / "config", server, {})
    monkeypatch.setenv("KUBECONFIG", str(path))
    async with await kube.connect(user_agent="som-test/1") as client:
        await client.get(PATH)


async def test_a_netrc_that_knows_the_server_changes_nothing(
    server: FakeApiServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("v1", "nodes", {"metadata": {"name": "a"}})
    (tmp_path / "netrc").write_text("default login somebody password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    path = write_kubeconfig(tmp_path / "config", server, {"token": "secret"})
    async with await kube.connect(user_agent="som-test/1", kubeconfig=path) as client:
        await client.get(PATH)
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(("no_proxy", "reached"), [("", True), ("example.invalid", False)])
async def test_the_proxy_of_the_environment_is_used_unless_it_excepts_the_server(
    no_proxy: str,
    reached: bool,
    server: FakeApiServer,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.put("v1", "nodes", {"metadata": {"name": "a"}})
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", no_proxy)
    path = write_kubeconfig(tmp_path / "config", server, {})
    path.write_text(path.read_text().replace(server.url, "http://example.invalid"))
    async with await kube.connect(user_agent="som-test/1", kubeconfig=path) as client:
        with contextlib.suppress(kube.KubeError):
            await client.get(PATH)
    assert [request.path for request in server.requests] == ([PATH] if reached else [])


@pytest.mark.parametrize(("valid_s", "plugin_calls"), [(3600, 1), (60, 4)])
async def test_exec_credentials_are_renewed_only_when_they_are_about_to_expire(
    valid_s: int, plugin_calls: int, server: FakeApiServer, tmp_path: pathlib.Path
) -> None:
    server.put("v1", "nodes", {"metadata": {"name": "a"}})
    plugin = write_exec_plugin(tmp_path / "plugin", valid_s=valid_s)
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    path = write_kubeconfig(tmp_path / "config", server, user)
    async with await kube.connect(user_agent="som-test/1", kubeconfig=path) as client:
        for _ in range(3):
            await client.get(PATH)
    assert len(pathlib.Path(f"{plugin}.calls").read_text().splitlines()) == plugin_calls
    assert server.requests[-1].headers["Authorization"] == f"Bearer t{plugin_calls}"


@pytest.fixture
def certificate(tmp_path: pathlib.Path) -> pathlib.Path:
    """Key and certificate of a server on 127.0.0.1, in one PEM file."""
    path = tmp_path / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    output = ["-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run([*command.split(), *names, *output], check=True, capture_output=True)
    with path.open("a") as file:
        file.write(pathlib.Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
async def secure_server(certificate: pathlib.Path) -> AsyncIterator[FakeApiServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with FakeApiServer(tls=context) as server:
        yield server


async def test_a_service_account_token_that_was_rotated_is_read_anew(
    secure_server: FakeApiServer,
    certificate: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secure_server.put("v1", "nodes", {"metadata": {"name": "a"}})
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", f"{certificate}.crt")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secure_server.port))
    in_a_while = datetime.datetime.now() + datetime.timedelta(seconds=61)
    later = types.SimpleNamespace(
        datetime=types.SimpleNamespace(now=lambda: in_a_while), timedelta=datetime.timedelta
    )
    async with await kube.connect(user_agent="som-test/1") as client:
        await client.get(PATH)
        token.write_text("second")
        await client.get(PATH)
        monkeypatch.setattr(incluster_config, "datetime", later)
        await client.get(PATH)
    sent = [request.headers["Authorization"] for request in secure_server.requests]
    assert sent == ["bearer first", "bearer first", "bearer second"]


async def test_a_server_with_a_certificate_of_others_is_refused(
    secure_server: FakeApiServer, tmp_path: pathlib.Path
) -> None:
    path = write_kubeconfig(tmp_path / "config", secure_server, {"token": "secret"})
    async with await kube.connect(user_agent="som-test/1", kubeconfig=path) as client:
        with pytest.raises(kube.KubeError, match="certificate verify failed"):
            await client.get(PATH)
    assert secure_server.requests == []


@pytest.mark.parametrize(
    "content", ["", "clusters: [", "current-context: nowhere", "[1, 2]"], ids=repr
)
async def test_a_kubeconfig_that_cannot_be_used_is_named(
    content: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(kube.KubeError, match=str(path)) as caught:
        await kube.connect(user_agent="som-test/1", kubeconfig=path)
    assert caught.value.reason == "Config"


async def test_a_missing_kubeconfig_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(kube.KubeError, match="no such file"):
        await kube.connect(user_agent="som-test/1", kubeconfig=tmp_path / "nowhere")


async def test_names_are_quoted_in_paths() -> None:
    assert kube.PODS.path(namespace="a", name="b/../c") == "/api/v1/namespaces/a/pods/b%2F..%2Fc"
    path = kube.SOMPOOLS.path(name="x", subresource="status")
    assert path == "/apis/som.io/v1alpha1/sompools/x/status"


@pytest.mark.parametrize(
    ("failure", "status", "reason"),
    [
        ("HTTP 500", 500, "InternalError"),
        ("HTTP 401", 401, "Unauthorized"),
        ("garbage bytes", 0, "BadAnswer"),
        ("truncated JSON", 0, "BadAnswer"),
        ("a proxy's page", 0, "BadAnswer"),
        ("half-open TCP before headers", 0, "Timeout"),
    ],
)
async def test_every_failure_is_a_kube_error(
    failure: str,
    status: int,
    reason: str,
    server: FakeApiServer,
    client: kube.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reason == "Timeout":
        monkeypatch.setattr(kube_client, "ANSWER_TIMEOUT_S", 0.05)
    server.failure = failures.ALL[failure]
    with pytest.raises(kube.KubeError, match=r"GET /api/v1/nodes/a: ") as caught:
        await client.get(PATH)
    assert (caught.value.status, caught.value.reason) == (status, reason)


async def test_a_server_that_is_not_there_is_a_kube_error(
    server: FakeApiServer, client: kube.Client
) -> None:
    await server.stop()
    with pytest.raises(kube.KubeError, match="is the API server up") as caught:
        await client.get(PATH)
    assert (caught.value.status, caught.value.reason) == (0, "NoAnswer")
    await server.start()


async def test_a_watch_that_does_not_begin_is_given_up_before_it_would_be_idle(
    server: FakeApiServer, client: kube.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "ANSWER_TIMEOUT_S", 0.05)
    server.failure = failures.silence_before_headers
    async with asyncio.timeout(60):
        with pytest.raises(kube.KubeError, match="Timeout"):
            async with client.watch(kube.NODES.path(), params={}, idle_timeout_s=3600):
                pass


async def test_cancelling_a_request_is_no_failure(
    server: FakeApiServer, client: kube.Client
) -> None:
    server.failure = failures.silence_before_headers
    task = asyncio.create_task(client.get(PATH))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_retry_after_is_told(server: FakeApiServer, client: kube.Client) -> None:
    server.failure = failures.ALL["HTTP 429 with Retry-After"]
    with pytest.raises(kube.KubeError) as caught:
        await client.get(PATH)
    assert caught.value.retry_after_s == 1.0


def line_of(size_bytes: int) -> tuple[kube.Json, bytes]:
    """An object and its watch line, escaped as an API server does: six bytes for one."""
    annotations = {"large": "<" * (size_bytes // 6)}
    item = {"metadata": {"name": "a", "annotations": annotations, "resourceVersion": "5"}}
    line = json.dumps({"type": "ADDED", "object": item}).replace("<", "\\u003c")
    return item, line.encode() + b"\n"


async def test_an_object_of_the_largest_size_that_a_server_sends_passes_through_a_watch(
    server: FakeApiServer, client: kube.Client
) -> None:
    item, line = line_of(18 * 2**20)

    async def send_line(request: web.Request) -> web.StreamResponse:
        response = await failures._open(request)
        await response.write(line + line[:-1])  # The last line of a stream may lack its end.
        return response

    server.failure = send_line
    async with client.watch(kube.NODES.path(), params={}, idle_timeout_s=60) as events:
        assert [event["object"] async for event in events] == [item, item]


@pytest.mark.parametrize("depth", [50, 1500, 9000])
async def test_managed_fields_nested_as_deep_as_a_server_takes_them_hide_nothing(
    depth: int, server: FakeApiServer, client: kube.Client
) -> None:
    fields = '{"f:x]": ' * depth + '{"\\\\": [[], {}]}' + "}" * depth
    metadata = f'{{"managedFields": [{{"fieldsV1": {fields}}}], "name": "a]}}\\"", "uid": "1"}}'
    line = f'{{"type": "ADDED", "object": {{"metadata": {metadata}, "spec": {{"n": [1, 2]}}}}}}\n'

    async def send_line(request: web.Request) -> web.StreamResponse:
        response = await failures._open(request)
        await response.write(line.encode())
        return response

    server.failure = send_line
    async with client.watch(kube.NODES.path(), params={}, idle_timeout_s=60) as events:
        event = await anext(events)
    assert (event["type"], event["object"]["spec"]) == ("ADDED", {"n": [1, 2]})
    assert event["object"]["metadata"]["name"] == 'a]}"'
    assert (await client.get(PATH))["object"]["metadata"]["uid"] == "1"


@pytest.mark.parametrize("gather", [None, functools.partial(asyncio.sleep, 0.02)])
async def test_lines_are_told_apart_wherever_the_network_cuts_them(
    gather: Callable[[], Awaitable[None]] | None, server: FakeApiServer, client: kube.Client
) -> None:
    _, line = line_of(60)

    async def send_bytes(request: web.Request) -> web.StreamResponse:
        response = await failures._open(request)
        for number in range(len(line)):
            await response.write(line[number : number + 1])
        await response.write(line + line + line[:7])
        await asyncio.sleep(0.01)
        await response.write(line[7:])
        return response

    server.failure = send_bytes
    async with client.watch(
        kube.NODES.path(), params={}, idle_timeout_s=60, gather=gather
    ) as events:
        assert len([event async for event in events]) == 4


@pytest.mark.parametrize("watching", [True, False])
async def test_an_answer_without_end_is_given_up(
    watching: bool, server: FakeApiServer, client: kube.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "MOST_BYTES", 2**20)

    async def never_end(request: web.Request) -> web.StreamResponse:
        response = await failures._open(request)
        while True:
            await response.write(b"x" * 2**16)

    server.failure = never_end
    with pytest.raises(kube.KubeError, match="longer than 1048576 bytes") as caught:
        if watching:
            async with client.watch(PATH, params={}, idle_timeout_s=60) as events:
                await anext(events)
        else:
            await client.get(PATH)
    assert caught.value.reason == "TooLarge"


@pytest.mark.parametrize(
    "problem", [RuntimeError("Connection closed."), RecursionError(), EOFError()]
)
async def test_whatever_a_stream_raises_is_a_failure_of_that_stream(
    problem: Exception, server: FakeApiServer, client: kube.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(content: object) -> AsyncIterator[bytes]:
        raise problem
        yield b""

    monkeypatch.setattr(aiohttp.StreamReader, "iter_any", fail)
    with pytest.raises(kube.KubeError, match="not what an API server sends"):
        async with client.watch(PATH, params={"resourceVersion": 1}, idle_timeout_s=60) as events:
            await anext(events)
    with pytest.raises(kube.KubeError, match="not what an API server sends"):
        await client.get(PATH)
