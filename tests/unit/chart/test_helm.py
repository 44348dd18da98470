"""helm's own opinion, where there is a helm: in PATH, or built for the cluster tier already."""

import json
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from som_api import VERSION
from unit.chart import templates

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
ROOT = pathlib.Path(__file__).parents[3]
PRODUCTION = ROOT / "examples/values-production.yaml"
EVERYTHING: dict[str, Any] = {
    "images": {"pullSecrets": ["s"], "agent": {"repository": "r", "digest": f"sha256:{'0' * 64}"}},
    "crds": {"keep": False},
    "agent": {
        "kubeletRootDir": "/var/lib/k0s/kubelet",
        "podLabels": {"team": "db"},
        "podAnnotations": {"a": "b"},
        "env": [{"name": "TZ", "valueFrom": {"configMapKeyRef": {"name": "zones", "key": "tz"}}}],
    },
    "operator": {
        "priorityClassName": "",
        "podLabels": {"x": "z"},
        "podAnnotations": {"a": "b"},
        "env": [{"name": "TZ", "value": "UTC"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
    },
    "commonLabels": {"team": "platform"},
    "networkPolicy": {"egressTo": [{"ipBlock": {"cidr": "192.0.2.0/28"}}]},
    "metrics": {
        "from": [{"podSelector": {}}],
        "podMonitor": {"create": True, "labels": {"team": "metrics"}, "interval": "1m"},
        "alerts": {"create": True, "labels": {"a": "b"}, "runbooks": "https://docs.test/som"},
        "dashboard": {"create": True, "labels": {"grafana": "yes"}},
    },
    "test": {"unit": "1Gi", "limits": {"memory": "64Mi"}},
}


@pytest.fixture(scope="module")
def helm() -> str:
    built = sorted((CACHE / "som/cluster").glob("helm-*/helm"))
    found = shutil.which("helm") or next(map(str, built), None)
    if found is None:
        pytest.skip("no helm in PATH, and none built by `make cluster-build`")
    return found


Objects = list[templates.Manifest]


@pytest.fixture(scope="module")
def plain(helm: str) -> Objects:
    """What helm makes without values."""
    return _objects(helm, {})


@pytest.fixture(scope="module")
def full(helm: str) -> Objects:
    """What helm makes of EVERYTHING."""
    return _objects(helm, EVERYTHING)


def _objects(helm: str, values: object) -> Objects:
    made = yaml.load_all(_run(helm, "template", "som", values=values), yaml.CSafeLoader)
    return [found for found in made if found]


def _run(helm: str, *words: str, values: object = None) -> str:
    command = [helm, words[0], *words[1:], str(templates.CHART), "--kube-version=1.37.0"]
    done = subprocess.run(
        [*command, f"--namespace={templates.NAMESPACE}", "--values=-"],
        input=yaml.safe_dump(values or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_lint_finds_nothing(helm: str, values: object) -> None:
    _run(helm, "lint", "--strict", values=values)


@pytest.mark.parametrize("values", ["plain", "full"])
def test_policies_are_what_these_tests_read_without_helm(
    request: pytest.FixtureRequest, values: str
) -> None:
    made = {
        (found["kind"], found["metadata"]["name"]): found["spec"]
        for found in request.getfixturevalue(values)
        if "AdmissionPolicy" in found["kind"]
    }
    names = [path.name for path in (templates.CHART / "templates/admission").glob("*.yaml")]
    read = {
        (found["kind"], found["metadata"]["name"]): found["spec"]
        for name in names
        for found in templates.read(f"admission/{name}")
    }
    assert made == read


def test_kinds_that_a_cluster_may_lack_come_only_when_asked_for(plain: Objects) -> None:
    assert not {"PodMonitor", "PrometheusRule"} & {found["kind"] for found in plain}
    assert "som-dashboard" not in {found["metadata"]["name"] for found in plain}


def test_alerts_and_dashboard_reach_the_cluster_as_promtool_and_grafana_read_them(
    full: Objects,
) -> None:
    rules, dashboard = _one(full, "PrometheusRule", "som"), _one(full, "ConfigMap", "som-dashboard")
    text = (templates.CHART / "monitoring/alerts.yaml").read_text()
    asked = text.replace("docs/how-to/troubleshoot.md", "https://docs.test/som")
    assert rules["spec"] == yaml.safe_load(asked)
    assert rules["metadata"]["labels"]["a"] == "b"
    shown = (templates.CHART / "monitoring/dashboard.json").read_text()
    assert json.loads(dashboard["data"]["som.json"]) == json.loads(shown)


def test_the_monitor_scrapes_the_pods_and_the_port_that_have_metrics(full: Objects) -> None:
    spec = _one(full, "PodMonitor", "som")["spec"]
    (rule,) = spec["selector"]["matchExpressions"]
    for workload in (found for found in full if found["kind"] in ("DaemonSet", "Deployment")):
        pod = workload["spec"]["template"]
        assert pod["metadata"]["labels"][rule["key"]] in rule["values"]
        (container,) = pod["spec"]["containers"]
        ports = [port["name"] for port in container["ports"]]
        assert spec["podMetricsEndpoints"][0]["port"] in ports


def test_labels_of_all_objects_give_way_to_their_own(full: Objects) -> None:
    for found in full:
        if found["kind"] == "CustomResourceDefinition":
            continue
        own = {"PodMonitor": "metrics"}.get(found["kind"], "platform")
        assert found["metadata"]["labels"]["team"] == own
        if found["kind"] in ("DaemonSet", "Deployment"):
            labels = found["spec"]["template"]["metadata"]["labels"]
            assert labels["team"] == ("db" if found["kind"] == "DaemonSet" else "platform")


def test_the_example_for_production_is_a_good_set_of_values(helm: str) -> None:
    _run(helm, "lint", "--strict", values=yaml.safe_load(PRODUCTION.read_text()))


def test_the_page_lists_every_image_that_a_cluster_pulls(helm: str) -> None:
    """In objects and in what the operator makes pods of."""
    text = _run(helm, "template", "som", values=yaml.safe_load(PRODUCTION.read_text()))
    page = (ROOT / "docs/how-to/run-in-production.md").read_text()
    listed = dict(re.findall(r"^\| `images\.(\w+)` \| `(\S+)` \|", page, re.M))
    pulled = set(re.findall(r"\bimage: (\S+)", text))
    assert pulled == {f"{image}:{VERSION}" for image in listed.values()}
    images = yaml.safe_load((templates.CHART / "values.yaml").read_text())["images"]
    assert listed.keys() == {name for name, value in images.items() if isinstance(value, dict)}


def test_the_environment_has_what_the_values_add(full: Objects) -> None:
    for kind, name, own in (
        ("DaemonSet", "agent", ["NODE_NAME", "POD_NAME", "POD_NAMESPACE"]),
        ("Deployment", "operator", ["POD_NAMESPACE"]),
    ):
        (container,) = _one(full, kind, f"som-{name}")["spec"]["template"]["spec"]["containers"]
        *before, added = container["env"]
        assert [variable["name"] for variable in before] == own
        assert [added] == EVERYTHING[name]["env"]


def test_replicas_spread_as_told(full: Objects) -> None:
    spec = _one(full, "Deployment", "som-operator")["spec"]["template"]["spec"]
    told = EVERYTHING["operator"]["topologySpreadConstraints"]
    assert spec["topologySpreadConstraints"] == told


def test_pods_reach_each_other_and_those_who_are_named(plain: Objects, full: Objects) -> None:
    open_policy = _one(plain, "NetworkPolicy", "som")["spec"]
    assert open_policy["policyTypes"] == ["Ingress"]
    closed = _one(full, "NetworkPolicy", "som")["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    ours = {"podSelector": closed["podSelector"]}
    assert closed["egress"] == [{"to": [ours, *EVERYTHING["networkPolicy"]["egressTo"]]}]


def test_pods_without_a_reason_have_no_token(plain: Objects) -> None:
    assert _one(plain, "Pod", "som-test")["spec"]["automountServiceAccountToken"] is False


def _one(objects: Objects, kind: str, name: str) -> templates.Manifest:
    (found,) = (o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found
