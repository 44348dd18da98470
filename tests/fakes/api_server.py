"""A small API server on loopback: what the real one does with lists, watches and patches.

`tests/unit/kube/test_fake_api_server.py` and the cluster tier run the same contract, the latter
against the real server. `failure` makes it misbehave: see `fakes.failures`.
"""

import asyncio
import dataclasses
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web
from kubernetes.aio import client as official

from fakes import object_store
from fakes.object_store import Json, Place
from som_api import kube
from som_api.run import clock

# A certificate whose key was thrown away. With none, each client loads the machine's for 50 ms.
ANY_CA = """\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUNajmNdcWP3pT4ZGo82l6VcHwe/8wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjQyMDM3NTlaGA8yMTI2MTAzMTIwMzc1
OVowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABH2g
XT6JUN5exOuGuyUggxkyzacmImKw5NoLnRCZ9of5sqb/7WYnYHCAELybOGxuVfRM
/dJOALJNA3bWfWumIcCjUzBRMB0GA1UdDgQWBBSIaPHb3Ec9eQW/LC+FnPeMTjRH
oDAfBgNVHSMEGDAWgBSIaPHb3Ec9eQW/LC+FnPeMTjRHoDAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIH89oBGyyWsToLkZFdP8lU+veXPp52/x7VK8
bBVkvWFBAiEA933T8pwyfHxQYPSRkUr/AGRNNMlNN3HJQaD/BK2kBOc=
-----END CERTIFICATE-----
"""

Failure = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as it arrived; `verb` as in RBAC: get, list, watch, create, patch, delete."""

    at_s: float
    verb: str
    path: str
    body: Any
    headers: dict[str, str]


class FakeApiServer:
    """`store` is what it serves, `requests` what it was asked; `failure` takes requests over.

    `second_s` is how long one of a watch's timeoutSeconds takes here.
    """

    def __init__(
        self, *, time: clock.Clock | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.store = object_store.ObjectStore()
        self.requests: list[Request] = []
        self.failure: Failure | None = None
        self.token: str | None = None
        self.second_s = 1.0
        self.port = 0
        self._time = time or clock.SystemClock()
        self._tls = tls
        self._ended = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def client(self) -> kube.Client:
        """A client of this server."""
        session = {"trust_env": False}
        configuration = official.Configuration(
            host=self.url, ca_cert_data=ANY_CA, client_session_kwargs=session
        )
        return kube.Client(official.ApiClient(configuration))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._reserved.close()

    async def start(self) -> None:
        """Listen, on the same port as before."""
        if not self.port:
            # Held while the server is stopped, too: other processes look for a free port meanwhile.
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind(("127.0.0.1", 0))
            self.port = self._reserved.getsockname()[1]
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()

    async def stop(self) -> None:
        """Stop listening and break every connection."""
        await self._runner.cleanup()

    async def end_watches(self) -> None:
        """End all watches, as the server does after their timeoutSeconds."""
        self._ended += 1
        async with self.store.changed:
            self.store.changed.notify_all()
        await asyncio.sleep(0.01)

    def put(self, api_version: str, plural: str, item: Json) -> Json:
        """Store an object as another client would."""
        metadata = item["metadata"]
        place = Place(api_version, plural, metadata.get("namespace", ""), metadata["name"])
        return self.store.put(place, item)

    def remove(self, api_version: str, plural: str, name: str, *, namespace: str = "") -> None:
        """Delete an object as another client would."""
        self.store.remove(Place(api_version, plural, namespace, name))

    def verbs(self) -> list[str]:
        """The verbs of all requests so far."""
        return [request.verb for request in self.requests]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        place, subresource = _parse(request.path)
        verb = _verb(request, place)
        body = json.loads(await request.text() or "null")
        self.requests.append(
            Request(self._time.monotonic(), verb, request.path, body, dict(request.headers))
        )
        if self.failure and (answer := await self.failure(request)) is not None:
            return answer
        if self.token is not None and request.headers.get("Authorization") != self.token:
            return status(401, "Unauthorized", "Unauthorized")
        match verb:
            case "list":
                return self._list(request, place)
            case "watch":
                return await self._watch(request, place)
            case "create":
                return self._create(place, body)
            case "patch":
                return self._patch(request, place, subresource, body)
        item = self.store.get(place)
        if verb == "delete" and item:
            wanted = (body or {}).get("preconditions", {}).get("uid", item["metadata"]["uid"])
            if wanted != item["metadata"]["uid"]:
                return status(409, "Conflict", "the UID in the precondition does not match")
            item = self.store.remove(place)
        return web.json_response(item) if item else _not_found(place)

    def _list(self, request: web.Request, place: Place) -> web.Response:
        found = [item for where, item in self.store.list(place) if _selected(request, where, item)]
        version, start = str(self.store.version), 0
        if token := request.query.get("continue"):
            version, _, offset = token.partition(".")
            start = int(offset)
            if int(version) < self.store.oldest_version:
                return status(410, "Expired", "The provided continue parameter is too old")
        metadata = {"resourceVersion": version}
        end = start + int(request.query.get("limit", len(found) or 1))
        if end < len(found):
            metadata["continue"] = f"{version}.{end}"
        return web.json_response({"kind": "List", "metadata": metadata, "items": found[start:end]})

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        version = int(request.query["resourceVersion"])
        if version < self.store.oldest_version:
            gone = status_object(410, "Expired", f"too old resource version: {version}")
            await send(response, "ERROR", gone)
            return response
        ended = self._ended
        deadline_s = int(request.query.get("timeoutSeconds", 3600)) * self.second_s
        try:
            async with asyncio.timeout(deadline_s):
                while ended == self._ended:
                    for change in self.store.since(version):
                        version = change.version
                        if object_store.is_in(change.place, place) and _selected(
                            request, change.place, change.item
                        ):
                            await send(response, change.kind, change.item)
                    async with self.store.changed:
                        if self.store.version == version or not self.store.history:
                            await self.store.changed.wait()
        except TimeoutError:
            pass
        if request.query.get("allowWatchBookmarks") == "true":
            await send(response, "BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
        return response

    def _create(self, place: Place, body: Json) -> web.Response:
        metadata = body["metadata"]
        place = dataclasses.replace(place, name=metadata["name"])
        if self.store.get(place):
            return status(409, "AlreadyExists", f'{place.plural} "{place.name}" already exists')
        return web.json_response(self.store.put(place, body), status=201)

    def _patch(
        self, request: web.Request, place: Place, subresource: str, body: Any
    ) -> web.Response:
        old = self.store.get(place)
        applies = request.content_type == "application/apply-patch+yaml"
        if old is None and (subresource or not applies):
            return _not_found(place)
        if applies:
            wanted = body.get("metadata", {}).get("resourceVersion")
            if old and wanted not in (None, old["metadata"]["resourceVersion"]):
                return status(409, "Conflict", "the object has been modified")
            part = {f: v for f, v in body.items() if (f == "status") == (subresource == "status")}
            part = {f: v for f, v in part.items() if f != "metadata" or not subresource}
            manager = request.query["fieldManager"]
            return web.json_response(self.store.apply(place, subresource, part, manager=manager))
        if request.content_type == "application/merge-patch+json":
            new = object_store.merge_patched(old, body)
        else:
            new = object_store.json_patched(old or {}, body)
            if new is None:
                return status(422, "Invalid", "the server rejected our request")
        assert old is not None
        kept = {"status"} if subresource in ("", "scale") else set(old) - {"status"}
        for field in kept | {"status"}:
            source = old if field in kept else new
            if field in source:
                new[field] = source[field]
            else:
                new.pop(field, None)
        return web.json_response(self.store.put(place, new))


def _parse(path: str) -> tuple[Place, str]:
    parts = path.strip("/").split("/")
    api_version = parts[1] if parts[0] == "api" else "/".join(parts[1:3])
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource, *_ = [*rest, "", ""]
    return Place(api_version, plural, namespace, name), subresource


def _verb(request: web.Request, place: Place) -> str:
    if request.method == "GET" and request.query.get("watch") == "true":
        return "watch"
    if request.method == "GET":
        return "get" if place.name else "list"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[request.method]


def _selected(request: web.Request, place: Place, item: Json) -> bool:
    node = item.get("spec", {}).get("nodeName", "")
    fields = {"metadata.name": place.name, "spec.nodeName": node}
    labels = item["metadata"].get("labels", {})
    for selector, values in (("fieldSelector", fields), ("labelSelector", labels)):
        for term in filter(None, request.query.get(selector, "").split(",")):
            field, _, wanted = term.partition("=")
            if values.get(field) != wanted:
                return False
    return True


async def send(response: web.StreamResponse, kind: str, item: Json) -> None:
    """One watch event on the stream."""
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")


def status_object(code: int, reason: str, message: str) -> Json:
    """A metav1.Status that reports a failure."""
    what = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**what, "message": message, "reason": reason, "code": code}


def status(
    code: int, reason: str, message: str, *, headers: dict[str, str] | None = None
) -> web.Response:
    """An HTTP answer that carries a metav1.Status."""
    return web.json_response(status_object(code, reason, message), status=code, headers=headers)


def _not_found(place: Place) -> web.Response:
    return status(404, "NotFound", f'{place.plural} "{place.name}" not found')
