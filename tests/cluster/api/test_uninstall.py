"""som-operator uninstall with the rights of the chart's hook; the test plays the agent."""

import collections.abc
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from cluster.api.conftest import NAMESPACE, ApiServer, pod
from cluster.harness.errors import run, wait_until

SOURCE = {"hugeTLB": {"pageSize": "2Mi"}}
ENTRY = {"name": "leaving", "generation": 1, "unit": "2Mi", "capacity": "64Mi"}
Uninstall = collections.abc.Callable[[], subprocess.CompletedProcess[str]]


@pytest.fixture
def uninstall(api_server: ApiServer, tmp_path: pathlib.Path) -> collections.abc.Iterator[Uninstall]:
    """A node with a reserved pool; calling it does what the hook's job does."""
    hooks = yaml.safe_load_all(api_server.chart("--show-only=templates/uninstall.yaml"))
    rights = [hook for hook in hooks if hook["kind"] != "Job"]
    _apply(api_server, *rights)
    pool = {"unit": "2Mi", "capacity": "64Mi", "source": SOURCE}
    metadata = {"name": "leaving", "finalizers": ["som.io/release"]}
    _apply(
        api_server,
        _object("SomPool", spec=pool) | {"metadata": metadata},
        _object("SomNode", spec={"pools": [ENTRY | {"source": SOURCE}]}),
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "leaving"}},
    )
    conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
    capacity = {"cpu": "2", "som.io/2Mi": "32"}
    _patch_status(api_server, "node", {"capacity": capacity, "conditions": conditions})
    _patch_status(api_server, "sompool", {"capacity": "64Mi"})
    reported = [ENTRY | {"allocated": "0", "free": "64Mi"}]
    _report(api_server, reported)
    kubeconfig = tmp_path / "kubeconfig"
    token = api_server.kubectl("create", "token", "som-uninstall", f"--namespace={NAMESPACE}")
    user = f"- name: admin\n  user: {{token: {token.strip()}}}\n"
    admin = api_server.namespaces.admin.read_text()
    kubeconfig.write_text(re.sub(r"- name: admin\n  user: .*\n", lambda _: user, admin))
    program = pathlib.Path(sys.executable).parent / "som-operator"
    words = [program, f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", "uninstall"]
    yield lambda: run(api_server.namespaces.enter([*words, "--timeout=30"]), check=False)
    if _get(api_server, "sompool"):
        without = '--patch={"metadata":{"finalizers":null}}'
        api_server.kubectl("patch", "sompool", "leaving", "--type=merge", without)
    for kind in ("node", "somnode", "sompool"):
        api_server.kubectl("delete", kind, "leaving", "--ignore-not-found")
    api_server.kubectl("delete", "--filename=-", stdin=json.dumps(_list(rights)))


def _object(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "som.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "leaving"},
        **fields,
    }


def _list(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": objects}


def _apply(api_server: ApiServer, *objects: dict[str, Any]) -> None:
    api_server.kubectl("apply", "--filename=-", stdin=json.dumps(_list(list(objects))))


def _patch_status(api_server: ApiServer, kind: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    words = ["patch", kind, "leaving", "--subresource=status", "--type=merge", f"--patch={patch}"]
    api_server.kubectl(*words)


def _get(api_server: ApiServer, kind: str) -> dict[str, Any]:
    words = ["get", kind, "leaving", "--output=json", "--ignore-not-found"]
    return dict(json.loads(api_server.kubectl(*words) or "{}"))


def _report(api_server: ApiServer, pools: list[dict[str, Any]]) -> None:
    generation = _get(api_server, "somnode")["metadata"]["generation"]
    _patch_status(api_server, "somnode", {"observedGeneration": generation, "pools": pools})


def _replicas(api_server: ApiServer) -> int:
    words = ["get", "deployment", "som-operator", f"--namespace={NAMESPACE}"]
    return int(api_server.kubectl(*words, "--output=jsonpath={.spec.replicas}"))


def test_uninstall_is_refused_while_a_pod_holds_memory(
    api_server: ApiServer, uninstall: Uninstall
) -> None:
    container = {"name": "db", "resources": {"limits": {"som.io/2Mi": 4}}}
    holder = pod("db-0", nodeName="leaving", containers=[container])
    api_server.kubectl("create", "--filename=-", stdin=json.dumps(holder))
    try:
        done = uninstall()
    finally:
        api_server.kubectl("delete", "pod", "db-0", "--force")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "som-operator: som memory is in use; delete these first:\n"
        "  pod default/db-0 on node leaving\n"
    )
    assert _replicas(api_server) == 1
    assert _get(api_server, "node")["status"]["capacity"]["som.io/2Mi"] == "32"


def test_uninstall_gives_back_memory_and_leaves_the_pool(
    api_server: ApiServer, uninstall: Uninstall
) -> None:
    with concurrent.futures.ThreadPoolExecutor() as others:
        done = others.submit(uninstall)
        wait_until(
            "the order to let go",
            lambda: not _get(api_server, "somnode")["spec"]["pools"],
            deadline_s=30,
        )
        assert "som.io/2Mi" not in _get(api_server, "node")["status"]["capacity"]
        _report(api_server, [])
        answer = done.result()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "all som memory is given back"
    assert _get(api_server, "somnode") == {}
    pool = _get(api_server, "sompool")
    assert pool["spec"]["capacity"] == "64Mi"
    assert "finalizers" not in pool["metadata"]
    assert "status" not in pool
    assert _replicas(api_server) == 0
    words = ["scale", "deployment/som-operator", f"--namespace={NAMESPACE}", "--replicas=1"]
    api_server.kubectl(*words)
