"""`uninstall`: the hook's Job, made of what is installed."""

import json
from typing import Any

import pytest

from som_kubectl import cluster, uninstall
from unit.kubectl.conftest import Run
from unit.kubectl.fleets import Fleet, Json

JOB = "som-uninstall-x1"
WORDS = ("create", "--namespace=som-system", "--output=json", "--filename=-")
LOGS = ("logs", "--follow", "--namespace=som-system", f"job/{JOB}")


@pytest.fixture
def installed(fleet: Fleet) -> Fleet:
    operator = fleet.kubectl.objects["/apis/apps/v1/namespaces/som-system/deployments/som-operator"]
    container: Json = {
        "name": "operator",
        "image": "registry/som-operator:1",
        "args": ["--log-level=info", "--driver-pod=/etc/som/driver/pod.yaml"],
        "env": [{"name": "POD_NAMESPACE", "valueFrom": {}}],
        "livenessProbe": {},
        "ports": [{"containerPort": 8080}],
        "volumeMounts": [{"name": "driver", "mountPath": "/etc/som/driver"}],
    }
    spec = {
        "serviceAccountName": "som-operator",
        "affinity": {},
        "tolerations": [{"key": "infra"}],
        "volumes": [{"name": "driver"}],
        "containers": [container],
    }
    operator["spec"] = {"replicas": 2, "template": {"spec": spec}}
    created = {"metadata": {"name": JOB}}
    fleet.kubectl.answers[WORDS] = json.dumps(created).encode()
    fleet.kubectl.answers[LOGS] = b"waiting for the operator to stop: som-operator-1\nlast words\n"
    return fleet


def _ends(fleet: Fleet, kind: str) -> None:
    """The Job has run, and has ended so."""
    metadata = {"name": JOB, "namespace": "som-system"}
    status = {"conditions": [{"type": kind, "status": "True"}]}
    fleet.kubectl.put("apis/batch/v1", "jobs", {"metadata": metadata, "status": status})
    labels = {"batch.kubernetes.io/job-name": JOB}
    pod: Json = {"metadata": {**metadata, "labels": labels}, "spec": {}}
    pod["status"] = {"containerStatuses": [{"state": {"terminated": {}}}]}
    fleet.kubectl.put("api/v1", "pods", pod)


def _job(fleet: Fleet) -> Json:
    found: dict[str, Any] = json.loads(fleet.kubectl.stdin[fleet.kubectl.calls.index(WORDS)])
    return found


def test_the_job_runs_the_installed_program_with_the_hooks_rights(
    installed: Fleet, som: Run
) -> None:
    _ends(installed, "Complete")
    status, printed, _ = som("uninstall", "--yes", "--timeout=60")
    assert status == 0
    assert "last words" in printed
    assert "helm uninstall RELEASE --no-hooks --namespace=som-system" in printed
    pod = _job(installed)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == "som-uninstall"
    assert container["image"] == "registry/som-operator:1"
    driver = "--driver-pod=/etc/som/driver/pod.yaml"
    assert container["args"] == [driver, "uninstall", "--timeout=60", "--replicas=2"]
    assert container.keys().isdisjoint({"livenessProbe", "ports"})
    assert (pod["tolerations"], pod["volumes"]) == ([{"key": "infra"}], [{"name": "driver"}])


def test_its_pod_is_no_operator_that_has_to_stop(installed: Fleet, som: Run) -> None:
    _ends(installed, "Complete")
    som("uninstall", "--yes")
    labels = _job(installed)["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "uninstall"


def test_a_refusal_is_1(installed: Fleet, som: Run) -> None:
    _ends(installed, "Failed")
    status, printed, _ = som("uninstall", "--yes")
    assert status == 1
    assert "the operator goes on" in printed


def test_what_its_pod_waits_for_is_told(installed: Fleet) -> None:
    _ends(installed, "Failed")
    pod = installed.kubectl.objects[f"/api/v1/namespaces/som-system/pods/{JOB}"]
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    pod["status"] = {"containerStatuses": [{"state": {"waiting": waiting}}]}
    ended = installed.kubectl.objects[f"/apis/batch/v1/namespaces/som-system/jobs/{JOB}"]
    conditions = ended["status"].pop("conditions")
    said = list[str]()
    run = uninstall.Uninstall(
        cluster.Cluster(installed.kubectl),
        60,
        say=said.append,
        pause=lambda _: ended["status"].update(conditions=conditions),
    )
    assert run.run() == 1
    assert said[1] == "its pod waits: ErrImagePull no such image"


def test_without_a_terminal_it_wants_yes(installed: Fleet, som: Run) -> None:
    status, _, beside = som("uninstall")
    assert status == 2
    assert "say --yes where nobody can be asked" in beside
    assert WORDS not in installed.kubectl.calls


def test_without_an_operator_nothing_is_begun(installed: Fleet, som: Run) -> None:
    del installed.kubectl.objects["/apis/apps/v1/namespaces/som-system/deployments/som-operator"]
    status, _, beside = som("uninstall", "--yes")
    assert status == 2
    assert "name its namespace with --system-namespace" in beside
