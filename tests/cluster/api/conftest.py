"""A control plane alone, with the chart's objects applied and nothing of som running."""

import collections.abc
import json
import os
import pathlib
import subprocess
from typing import Any

import aiohttp
import pytest

from cluster.harness import binaries, control_plane
from cluster.harness.certificates import write_all
from cluster.harness.errors import run, wait_until
from cluster.harness.namespaces import Namespaces

CHART = pathlib.Path(__file__).parents[3] / "charts/som"
NAMESPACE = "som-system"

Answer = tuple[int, dict[str, Any]]


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    """A Pod; containers without an image get one."""
    for containers in (spec.get("containers", []), spec.get("initContainers", [])):
        for container in containers:
            container.setdefault("image", "program")
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class ApiServer:
    """etcd, kube-apiserver and the controllers, in namespaces of their own."""

    def __init__(self, state: pathlib.Path) -> None:
        folders = [str(folder) for folder in binaries.build_all()]
        path = ":".join([*folders, "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        self.namespaces = Namespaces(state=state, path=path)
        self._socket = state / "proxy.sock"

    def start(self) -> None:
        self.namespaces.state.mkdir(exist_ok=True)
        write_all(self.namespaces.pki)
        nothing = os.open(os.devnull, os.O_RDONLY)
        self.namespaces.create(keep_open=nothing)
        os.close(nothing)
        control_plane.start(self.namespaces)
        self.namespaces.start("proxy", ["kubectl", "proxy", f"--unix-socket={self._socket}"])
        wait_until("the proxy", self._socket.exists, deadline_s=60, every_s=0.05)
        self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")

    def stop(self) -> None:
        self.namespaces.destroy()

    def install(self) -> None:
        """Apply what `helm install` would, and wait until the policies are in force."""
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("apply", "--server-side", "--filename=-", stdin=self.chart("--no-hooks"))
        crds = ("crd/sompools.som.io", "crd/somnodes.som.io")
        self.kubectl("wait", "--for=condition=Established", *crds, "--timeout=60s")
        asking = pod(containers=[{"name": "a", "resources": {"limits": {"som.io/2Mi": 1}}}])
        wrong = pod(containers=[{"name": "a", "resources": {"limits": {"som.io/4Mi": 1}}}])
        wait_until("tickets to be added", lambda: "ticket" in self._created(asking), deadline_s=60)
        wait_until("refusals", lambda: "does not exist" in self._created(wrong), deadline_s=60)

    def chart(self, *options: str) -> str:
        """What helm makes of the chart."""
        command = ["helm", "template", "som", str(CHART), f"--namespace={NAMESPACE}"]
        command += [f"--kube-version={binaries.KUBERNETES}", *options]
        return self.namespaces.run(command).stdout

    def _created(self, manifest: dict[str, Any]) -> str:
        words = ["create", "--dry-run=server", "--output=json", "--filename=-"]
        done = self.try_kubectl(*words, stdin=json.dumps(manifest))
        return done.stdout + done.stderr

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self.namespaces.run(["kubectl", *words], stdin=stdin).stdout

    def try_kubectl(
        self, *words: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run(self.namespaces.enter(["kubectl", *words]), stdin=stdin, check=False)

    def session(self) -> aiohttp.ClientSession:
        """HTTP to the API server as administrator."""
        return aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(str(self._socket))
        )


async def send(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, **who: str
) -> Answer:
    """One request; see `headers_of` for who sends it."""
    headers = headers_of(**who)
    async with session.request(method, path, data=json.dumps(body), headers=headers) as answer:
        return answer.status, await answer.json()


def headers_of(
    *,
    user: str = "",
    node: str = "",
    kubelet: str = "",
    person: str = "",
    content: str = "application/json",
) -> list[tuple[str, str]]:
    """Headers of a request of the administrator, of a service account of ours (with the node of
    its token), of the kubelet of a node, or of a person.
    """
    headers = [("Content-Type", content)]
    if user or kubelet or person:
        account = f"system:serviceaccount:{NAMESPACE}:{user}"
        name = f"system:node:{kubelet}" if kubelet else person or account
        headers += [("Impersonate-User", name), ("Impersonate-Group", "system:authenticated")]
    if kubelet:
        headers.append(("Impersonate-Group", "system:nodes"))
    if node:
        headers.append(("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node))
    return headers


MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> collections.abc.Iterator[ApiServer]:
    binaries.install_packages()
    server = ApiServer(tmp_path_factory.mktemp("api"))
    try:
        server.start()
        server.install()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def session(api_server: ApiServer) -> collections.abc.AsyncIterator[aiohttp.ClientSession]:
    async with api_server.session() as session:
        yield session
