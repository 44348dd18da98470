"""The fleet API of a real operator on the real API server: who sees what, by real tokens."""

from __future__ import annotations

import base64
import collections.abc
import json
import pathlib
import re
import sys
from typing import Any

import pytest

from cluster.api.conftest import NAMESPACE, ApiServer
from cluster.harness.certificates import NODE_IP
from cluster.harness.errors import wait_until

SHOP = "shop"
RIGHTS = {
    "pools": {"admin"},
    "pools/databases": {"admin"},
    "nodes": {"admin", "som-agent"},
    "nodes/web-1": {"admin"},
    "leases": {"admin", "som-agent"},
    "leases?namespace=shop": {"admin", "viewer", "som-agent"},
    "leases?namespace=default": {"admin", "som-agent"},
    "events": {"admin"},
}
"""Who may see what; an agent may list all pods, as kubectl with its token may."""


class Api:
    """Requests to the fleet API from inside the cluster's network."""

    def __init__(self, api_server: ApiServer, authority: pathlib.Path) -> None:
        self.server = api_server
        self._authority = authority
        self._tokens = {"stranger": "no.such.token", "": ""}

    def get(self, target: str, *, who: str = "admin") -> tuple[int, Any]:
        """Status and JSON of the answer to a user of the table; (0, None): there is none."""
        if who not in self._tokens:
            where = NAMESPACE if who.startswith("som-") else SHOP
            words = ("create", "token", who, f"--namespace={where}")
            self._tokens[who] = self.server.kubectl(*words).strip()
        ca = self.server.try_kubectl(
            "get",
            "configmap",
            "som-api-ca",
            f"--namespace={NAMESPACE}",
            "--output=jsonpath={.data.ca\\.crt}",
        ).stdout
        self._authority.write_text(ca)
        command = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}"]
        command += ["--cacert", str(self._authority)]
        command += ["--header", f"Authorization: Bearer {self._tokens[who]}"]
        command += [f"https://localhost:8443/api/v1/{target}"]
        done = self.server.namespaces.run(command, check=False)
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), json.loads(body) if body else None


@pytest.fixture(scope="module")
def api(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> collections.abc.Iterator[Api]:
    """som-operator serves, users have their rights, and one agent tells of one lease."""
    namespaces, kubectl = api_server.namespaces, api_server.kubectl
    folder = tmp_path_factory.mktemp("fleet-api")
    kubectl("create", "namespace", SHOP)
    for name, binding in (
        ("admin", ("clusterrolebinding", "web-admin", "--clusterrole=cluster-admin")),
        ("viewer", ("rolebinding", "web-viewer", "--clusterrole=view", f"--namespace={SHOP}")),
        ("nobody", ()),
    ):
        kubectl("create", "serviceaccount", name, f"--namespace={SHOP}")
        if binding:
            kubectl("create", *binding, f"--serviceaccount={SHOP}:{name}")
    token = kubectl("create", "token", "som-operator", f"--namespace={NAMESPACE}").strip()
    user = f"- name: admin\n  user: {{token: {token}}}\n"
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        re.sub(r"- name: admin\n  user: .*\n", lambda _: user, namespaces.admin.read_text())
    )
    _make_fleet(api_server)
    program = pathlib.Path(sys.executable).parent / "som-operator"
    options = [f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}"]
    namespaces.start("som-operator-web", [program, *options, "--endpoint=:8081", "--api=:8443"])
    served = Api(api_server, folder / "ca.crt")
    try:
        wait_until(
            "the fleet API", lambda: served.get("nodes/web-1")[0] == 200, deadline_s=90, every_s=1
        )
        words = ("get", "secret", "som-agent-tls", f"--namespace={NAMESPACE}", "--output=json")
        for name, pem in json.loads(kubectl(*words))["data"].items():
            (folder / name).write_bytes(base64.b64decode(pem))
        teller = [sys.executable, "-m", "cluster.api.teller", str(folder)]
        tests = pathlib.Path(__file__).parents[2]
        namespaces.start("teller", ["env", f"PYTHONPATH={tests}", *teller])
        yield served
    finally:
        for name in ("som-operator-web", "teller"):
            namespaces.stop(name)
        kubectl("delete", "sompool", "databases", "--wait=false")
        kubectl(
            "patch",
            "sompool",
            "databases",
            "--type=merge",
            "--patch",
            '{"metadata": {"finalizers": null}}',
        )
        for kind, namespace in (("agent", NAMESPACE), ("db", SHOP)):
            pods = [f"{kind}-web-1", f"{kind}-web-2"]
            kubectl(
                "delete", "pod", *pods, f"--namespace={namespace}", "--grace-period=0", "--force"
            )
        kubectl("delete", "node,somnode", "web-1", "web-2", "--ignore-not-found")


def _make_fleet(api_server: ApiServer) -> None:
    """Nodes web-1, whose agent is ready, and web-2, whose agent is dead; pool databases."""
    kubectl = api_server.kubectl
    pool = {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomPool",
        "metadata": {"name": "databases"},
        "spec": {
            "unit": "2Mi",
            "capacity": "1Gi",
            "source": {"hugeTLB": {}},
            "nodeSelector": {"matchLabels": {"fleet": "web"}},
        },
    }
    kubectl("create", "--filename=-", stdin=json.dumps(pool))
    for node, address in (("web-1", NODE_IP), ("web-2", "192.0.2.1")):
        meta = {"name": node, "labels": {"fleet": "web"}}
        kubectl(
            "create",
            "--filename=-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": meta}),
        )
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        _patch(api_server, f"node/{node}", {"status": {"conditions": ready}})
        labels = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "agent"}
        for name, namespace, limits in (
            (f"agent-{node}", NAMESPACE, {}),
            (f"db-{node}", SHOP, {"som.io/2Mi": 512}),
        ):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": labels if namespace == NAMESPACE else {}},
                "spec": {
                    "nodeName": node,
                    "containers": [
                        {"name": "app", "image": "program", "resources": {"limits": limits}}
                    ],
                },
            }
            where = f"--namespace={namespace}"
            kubectl("create", where, "--filename=-", stdin=json.dumps(pod))
        status = {"podIP": address, "podIPs": [{"ip": address}], "conditions": ready}
        _patch(api_server, f"pod/agent-{node}", {"status": status}, f"--namespace={NAMESPACE}")


def _patch(api_server: ApiServer, what: str, patch: Any, *options: str) -> None:
    words = ["patch", what, "--subresource=status", "--type=merge", f"--patch={json.dumps(patch)}"]
    api_server.kubectl(*words, *options)


@pytest.mark.parametrize("who", ["admin", "viewer", "nobody", "som-agent", "stranger", ""])
def test_rights_are_kubectls(who: str, api: Api) -> None:
    known = who not in ("stranger", "")
    refused = 403 if known else 401
    expected = {target: 200 if who in users else refused for target, users in RIGHTS.items()}
    answers = {target: api.get(target, who=who) for target in RIGHTS}
    assert {target: status for target, (status, _) in answers.items()} == expected
    for status, body in answers.values():
        assert status == 200 or (body["kind"], body["code"]) == ("Status", status)


def test_a_lease_comes_from_its_agent_and_a_dead_one_is_named(api: Api) -> None:
    def told() -> bool:
        return bool(api.get("leases?namespace=shop", who="viewer")[1]["items"])

    wait_until("the agent's lease", told, deadline_s=60, every_s=1)
    _, body = api.get("leases?namespace=shop", who="viewer")
    (lease,) = body["items"]
    assert (lease["node"], lease["pod"], lease["sizeBytes"]) == ("web-1", "db", 2**30)
    (missing,) = body["incomplete"]
    assert missing["node"] == "web-2"
