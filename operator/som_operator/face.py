"""The fleet's face: what the fleet API shows is read from the operator's caches, in every replica.

Leases are asked of the agents, over mutual TLS. The certificates come from the Secret that the
leader keeps; until it does, no handshake succeeds.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import aiohttp

from som_api import kube, leases, tls, v1alpha1
from som_api.run import clock
from som_api.web import access, app, counting, serving
from som_api.web import fleet as web
from som_operator import certificates
from som_operator.fleet import Fleet
from som_operator.news import News

CONNECT_S: Final = 2.0
_log = logging.getLogger(__name__)


class Face:
    """A `som_api.web.fleet.Fleet` on the operator's caches; `answers` counts what it gave."""

    def __init__(
        self, client: kube.Client, fleet: Fleet, *, namespace: str, time: clock.Clock
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._time = time
        self._news = News(client, fleet.changes, time=time)
        self._server_tls = tls.Rotating(asks_clients=False)
        self._client_tls: ssl.SSLContext | None = None
        self._secret = kube.Reflector[certificates.Pems](
            client,
            certificates.SECRETS,
            decode=certificates.decode,
            on_change=self._certificates_changed,
            namespace=namespace,
            field_selector=f"metadata.name={certificates.OPERATOR_SECRET}",
            time=time,
        )
        self.changes = fleet.changes
        self.answers = counting.Answers()

    async def run(self, *, address: str) -> NoReturn:
        """Serve the fleet API on `address` until cancelled. ServingError: it cannot listen."""
        application = app.create(
            self, access.ApiServer(self._client), answers=self.answers, time=self._time
        )
        async with (
            serving.serve(application, address=address, tls=self._server_tls.context),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._secret.run())
            tasks.create_task(self._news.run())
        raise AssertionError("reflectors run for ever")

    @property
    def synced(self) -> bool:
        return self._fleet.synced

    @property
    def pools(self) -> Mapping[str, v1alpha1.SomPool]:
        return self._fleet.sompools

    def node_names(self) -> Sequence[str]:
        return sorted(
            name
            for name, somnode in self._fleet.somnodes.items()
            if isinstance(somnode, v1alpha1.SomNode)
        )

    def node(self, name: str) -> web.Node | None:
        somnode = self._fleet.somnode(name)
        if somnode is None:
            return None
        node = self._fleet.nodes.get(name)
        return web.Node(
            somnode,
            kubelet_ready=node is not None and node.ready,
            agent_ready=self._fleet.bound(name).agent_ready,
        )

    def nodes_with_leases(self, namespace: str) -> Sequence[str]:
        found = set()
        for name, somnode in self._fleet.somnodes.items():
            holders = {key.namespace for key, pod in self._fleet.pods(name).items() if pod.units}
            # Memory may be held after its pod has gone; whose it was, only the agent knows.
            held = isinstance(somnode, v1alpha1.SomNode) and somnode.status.allocated
            if namespace in holders or (not namespace and (holders or held)):
                found.add(name)
        return sorted(found)

    def events(self) -> Sequence[web.Event]:
        return self._news.events()

    async def leases_of(self, node: str) -> Sequence[leases.Lease]:
        """See `Fleet`. While an agent is updated there are two, of which one tells."""
        addresses = [pod.agent_ip for pod in self._fleet.pods(node).values() if pod.agent_ip]
        if not addresses:
            raise web.AgentSilent("no agent runs here, or it has no address yet")
        if self._client_tls is None:
            raise web.AgentSilent("the operator has no certificates yet; see its log")
        problem = ""
        for address in addresses:
            try:
                return await self._ask(address, self._client_tls)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                problem = f"asking the agent: {error or type(error).__name__}"
        raise web.AgentSilent(problem)

    async def _ask(self, address: str, context: ssl.SSLContext) -> Sequence[leases.Lease]:
        host = f"[{address}]" if ":" in address else address
        url = f"https://{host}:{leases.PORT}{leases.PATH}"
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
        async with (
            aiohttp.ClientSession(timeout=limits, trust_env=False) as session,
            session.get(
                url, ssl=context, server_hostname=certificates.AGENT_NAME, allow_redirects=False
            ) as answer,
        ):
            body = bytearray()
            async for part in answer.content.iter_any():
                body += part
                if answer.status != 200 or len(body) > leases.MOST_BYTES:
                    raise ValueError(f"it answered {answer.status} and {len(body)} bytes or more")
        return leases.Report.model_validate_json(bytes(body)).leases

    def _certificates_changed(
        self, _: kube.Key, old: certificates.Pems | None, new: certificates.Pems | None
    ) -> None:
        if not new or "ca.crt" not in new:
            return
        server, own = (
            tls.Identity(new.get(f"{name}.crt", b""), new.get(f"{name}.key", b""), new["ca.crt"])
            for name in ("tls", "client")
        )
        self._server_tls.use(server)
        self._client_tls = tls.client_context(own)
        _log.info("the fleet API uses new certificates")
