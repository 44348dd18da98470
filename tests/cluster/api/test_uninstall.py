"""som-operator uninstall with the rights of the chart's hook; the test plays the agent."""

import collections.abc
import concurrent.futures
import contextlib
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from cluster.api.conftest import CHART, NAMESPACE, ApiServer, pod
from cluster.harness.errors import run, wait_until

SOURCE = {"hugeTLB": {"pageSize": "2Mi"}}
ENTRY = {"name": "leaving", "generation": 1, "unit": "2Mi", "capacity": "64Mi"}
RELEASE_MARK = "meta.helm.sh/release-name"
JOB = "job.batch/som-uninstall"
Uninstall = collections.abc.Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def uninstall(api_server: ApiServer, tmp_path: pathlib.Path) -> collections.abc.Iterator[Uninstall]:
    """A node with a reserved pool; calling it does what the hook's job does, with more options."""
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
    program = str(pathlib.Path(sys.executable).with_name("som-operator"))
    words = [program, f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", "uninstall"]
    words.append("--timeout=120")
    yield lambda *more: run(api_server.namespaces.enter([*words, *more]), check=False)
    if _get(api_server, "sompool"):
        without = '--patch={"metadata":{"finalizers":null}}'
        api_server.kubectl("patch", "sompool", "leaving", "--type=merge", without)
    for kind in ("node", "somnode", "sompool"):
        api_server.kubectl("delete", kind, "leaving", "--ignore-not-found")
    api_server.kubectl(
        "delete", "--ignore-not-found", "--filename=-", stdin=json.dumps(_list(rights))
    )


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


@contextlib.contextmanager
def _holder(api_server: ApiServer) -> collections.abc.Iterator[None]:
    """A pod that holds memory."""
    container = {"name": "db", "resources": {"limits": {"som.io/2Mi": 4}}}
    holder = pod("db-0", nodeName="leaving", containers=[container])
    api_server.kubectl("create", "--filename=-", stdin=json.dumps(holder))
    try:
        yield
    finally:
        api_server.kubectl("delete", "pod", "db-0", "--force")


@pytest.fixture
def helm(
    api_server: ApiServer,
) -> collections.abc.Iterator[collections.abc.Callable[..., subprocess.CompletedProcess[str]]]:
    """helm has installed som; calling it is helm."""

    def helm(*words: str) -> subprocess.CompletedProcess[str]:
        command = api_server.namespaces.enter(["helm", *words, f"--namespace={NAMESPACE}"])
        return run(command, check=False)

    installed = helm("install", "som", str(CHART), "--take-ownership")
    assert installed.returncode == 0, installed.stderr
    yield helm
    in_namespace = f"--namespace={NAMESPACE}"
    api_server.kubectl("delete", "secret", "--selector=owner=helm", in_namespace)
    api_server.kubectl("delete", JOB, "--ignore-not-found", in_namespace)
    api_server.kubectl("annotate", "deployment/som-operator", in_namespace, f"{RELEASE_MARK}-")


def test_chart_applied_as_text_uninstalls_nothing(
    api_server: ApiServer, uninstall: Uninstall
) -> None:
    job = yaml.safe_load(api_server.chart("--show-only=templates/uninstall.yaml").split("---")[-1])
    (release,) = [
        word
        for word in job["spec"]["template"]["spec"]["containers"][0]["args"]
        if word.startswith("--release")
    ]
    done = uninstall(release)
    assert done.stdout.startswith("nothing is done: helm did not install this")
    assert done.returncode == 0
    assert _replicas(api_server) == 2
    assert _get(api_server, "node")["status"]["capacity"]["som.io/2Mi"] == "32"


def test_helm_uninstall_is_told_from_text_and_leaves_rights_and_a_way_back_when_it_fails(
    api_server: ApiServer,
    uninstall: Uninstall,
    helm: collections.abc.Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = uninstall("--release=som")
    assert done.returncode == 1
    assert "no Secret of namespace som-system says that helm uninstalls release som" in done.stderr
    in_namespace = f"--namespace={NAMESPACE}"
    with _holder(api_server), concurrent.futures.ThreadPoolExecutor() as others:
        leaving = others.submit(helm, "uninstall", "som", "--timeout=120s")
        api_server.kubectl("wait", "--for=create", JOB, in_namespace, "--timeout=60s")
        done = uninstall("--release=som")
        assert "som memory is in use" in done.stderr
        _refuse(api_server)
        answer = leaving.result()
    assert answer.returncode != 0
    api_server.kubectl("get", "role", "som-uninstall", in_namespace)
    assert _replicas(api_server) == 2
    assert helm("upgrade", "som", str(CHART)).returncode != 0
    back = helm("rollback", "som", "1")
    assert back.returncode == 0, back.stderr
    upgraded = helm("upgrade", "som", str(CHART))
    assert upgraded.returncode == 0, upgraded.stderr


def _refuse(api_server: ApiServer) -> None:
    """What kubelet says of the job's pod when the program has refused."""
    in_namespace = f"--namespace={NAMESPACE}"
    selector = "--selector=app.kubernetes.io/component=uninstall"
    wait_until(
        "the job's pod",
        lambda: api_server.kubectl("get", "pods", selector, in_namespace, "--output=name"),
        deadline_s=60,
    )
    name = api_server.kubectl("get", "pods", selector, in_namespace, "--output=name").split()[0]
    ended = {"exitCode": 1, "reason": "Error"}
    container = {"name": "uninstall", "image": "i", "imageID": "", "ready": False}
    container |= {"restartCount": 0, "state": {"terminated": ended}}
    status = {"phase": "Failed", "containerStatuses": [container]}
    words = ["patch", name, in_namespace, "--subresource=status", "--type=merge"]
    api_server.kubectl(*words, f"--patch={json.dumps({'status': status})}")


def test_uninstall_is_refused_while_a_pod_holds_memory(
    api_server: ApiServer, uninstall: Uninstall
) -> None:
    with _holder(api_server):
        done = uninstall()
    assert done.returncode == 1
    assert done.stderr.endswith(
        "som-operator: som memory is in use; delete these first:\n"
        "  pod default/db-0 on node leaving\n"
    )
    assert _replicas(api_server) == 2
    assert _get(api_server, "node")["status"]["capacity"]["som.io/2Mi"] == "32"


def test_uninstall_gives_back_memory_and_leaves_the_pool(
    api_server: ApiServer, uninstall: Uninstall
) -> None:
    with concurrent.futures.ThreadPoolExecutor() as others:
        done = others.submit(uninstall)
        wait_until(
            "the order to let go",
            lambda: not _get(api_server, "somnode")["spec"]["pools"],
            deadline_s=60,
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
    words = ["scale", "deployment/som-operator", f"--namespace={NAMESPACE}", "--replicas=2"]
    api_server.kubectl(*words)
