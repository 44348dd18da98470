"""`must-gather`: what is in the archive, and above all what is not."""

import json
import pathlib
import tarfile

import pytest

from som_kubectl import scrub
from unit.kubectl.conftest import Run
from unit.kubectl.fleets import Fleet, Json, pool

CANARY = "canary-3f9c"
TOKEN = f"eyJhbGciOiJSUzI1NiJ9.{CANARY}.c2lnbmF0dXJl"


@pytest.fixture
def secretive(fleet: Fleet) -> Fleet:
    """A cluster with a canary wherever people put secrets."""
    fleet.node("n1", fleet.pool(pool("a")))
    kubectl = fleet.kubectl
    env = [
        {"name": "PASSWORD", "value": CANARY},
        {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    applied = {
        "kubectl.kubernetes.io/last-applied-configuration": CANARY,
        "som.io/numa": "required",
    }
    pod = fleet.pod("db", node="n1", message=f"Authorization: Bearer {CANARY}-bearer")
    pod["metadata"]["annotations"] = applied
    pod["metadata"]["managedFields"] = [{"manager": CANARY}]
    pod["spec"]["containers"][0] |= {"env": env, "args": [CANARY], "command": [CANARY]}
    pod["spec"]["volumes"] = [{"name": "v", "csi": {"volumeAttributes": {"key": CANARY}}}]
    for item in kubectl.objects.values():
        if item["metadata"]["name"] in ("som-operator", "som-agent"):
            spec = item.setdefault("spec", {})
            spec["template"] = {"spec": {"containers": [{"name": "c", "env": env}]}}
            item["metadata"]["annotations"] = applied
    agent = kubectl.objects["/api/v1/namespaces/som-system/pods/som-agent-n1"]
    agent["spec"]["containers"][0]["env"] = env
    node = kubectl.objects["/api/v1/nodes/n1"]
    node["metadata"]["annotations"] = {"join": CANARY}
    node["status"]["images"] = [{"names": [CANARY]}]
    kubectl.put("api/v1", "secrets", {"metadata": _named("s"), "data": {"k": CANARY}})
    kubectl.put("api/v1", "configmaps", {"metadata": _named("c"), "data": {"k": CANARY}})
    event = {"metadata": _named("e"), "message": f"som: token={CANARY}", "reason": "Failed"}
    kubectl.put("api/v1", "events", event)
    words = ("--namespace=som-system", "som-agent-n1", "--all-containers", "--timestamps")
    log = f"I1 GET /?token={CANARY}\nI2 Bearer {CANARY}xyz\nI3 {TOKEN}\nI4 https://u:{CANARY}@h/\nend\n"
    kubectl.answers[("logs", *words, "--tail=20000")] = log.encode()
    kubectl.answers[("version", "--output=json")] = b"{}"
    where = "/api/v1/namespaces/som-system/pods/som-agent-n1:9808/proxy/metrics"
    kubectl.answers[("get", "--raw", where)] = b"som_agent_up 1\n"
    return fleet


def _named(name: str) -> Json:
    return {"name": name, "namespace": "som-system"}


def _files(path: pathlib.Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar.getmembers():
            opened = tar.extractfile(member)
            assert opened is not None
            found[member.name.partition("/")[2]] = opened.read().decode()
        return found


def test_no_secret_gets_into_the_archive(
    secretive: Fleet, som: Run, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "gathered.tar.gz"
    status, _, beside = som("must-gather", "-f", str(path))
    assert status == 0, beside
    files = _files(path)
    assert not [name for name, text in files.items() if CANARY in text]
    asked = [word for words in secretive.kubectl.calls for word in words]
    assert not [word for word in asked if "secrets" in word or "configmaps" in word]


def test_what_helps_is_in_the_archive(secretive: Fleet, som: Run, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "gathered.tar.gz"
    som("must-gather", "-f", str(path))
    files = _files(path)
    (pod,) = json.loads(files["pods/pods.json"])
    assert pod["metadata"]["annotations"] == {"som.io/numa": "required"}
    assert pod["spec"]["containers"][0]["resources"]["limits"]["som.io/2Mi"] == "512"
    assert json.loads(files["cluster/sompools.json"])[0]["spec"]["capacity"] == "64Gi"
    (agent,) = json.loads(files["som-system/daemonsets.json"])
    names = [each["name"] for each in agent["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert names == ["PASSWORD", "OTHER"]
    assert files["logs/som-agent-n1.log"].endswith("\nend\n")
    assert files["metrics/som-agent-n1.txt"] == "som_agent_up 1\n"
    assert "logs/som-agent-n1.log" in files["index.txt"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_read_is_named(secretive: Fleet, som: Run, tmp_path: pathlib.Path) -> None:
    secretive.kubectl.forbidden |= {"nodes", "events"}
    path = tmp_path / "gathered.tar.gz"
    status, _, beside = som("must-gather", "-f", str(path))
    assert status == 1
    assert "missing: cluster/nodes.json: " in beside
    assert "pods/events.json: " in _files(path)["index.txt"]


def test_a_file_that_cannot_be_written_is_an_error(secretive: Fleet, som: Run) -> None:
    status, _, beside = som("must-gather", "-f", "/nowhere/x.tar.gz")
    assert (status, beside) == (
        2,
        "error: /nowhere/x.tar.gz: cannot be written: No such file or directory\n",
    )


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization: basic {CANARY}==",
        f"x {TOKEN} y",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
        f"postgres://user:{CANARY}@host/db",
        f"PASSWORD={CANARY}&x",
    ],
)
def test_texts_lose_what_looks_like_a_credential(text: str) -> None:
    assert CANARY not in scrub.text(text)
    assert scrub.LEFT_OUT in scrub.text(text)


def test_ordinary_texts_stay() -> None:
    text = "som: needs 8Gi, but pool databases has 2Gi free of 64Gi; held by: default/db-0"
    assert scrub.text(text) == text
