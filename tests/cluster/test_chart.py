"""The chart as text: what helm makes of it for the values that matter."""

import json
import pathlib
import subprocess
from typing import Any

import pytest
import yaml

from cluster.harness import binaries
from som_device_plugin import cdi
from som_device_plugin import main as agent
from som_operator import main as operator

CHART = pathlib.Path(__file__).parents[2] / "charts/som"
DIGEST = "sha256:" + "0" * 64
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def helm_binary() -> str:
    return str(binaries.build("helm") / "helm")


def _run(binary: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary, *words], capture_output=True, text=True, check=False)


def _template(binary: str, *settings: str, namespace: str = "som-system") -> str:
    words = ["template", "som", str(CHART), "--namespace", namespace]
    words += ["--kube-version", binaries.KUBERNETES]
    for setting in settings:
        words += ["--set-json", setting]
    done = _run(binary, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _objects(binary: str, *settings: str, namespace: str = "som-system") -> list[Manifest]:
    text = _template(binary, *settings, namespace=namespace)
    return [document for document in yaml.safe_load_all(text) if document]


def _one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found


def _pod(workload: Manifest) -> Manifest:
    if workload["kind"] == "Pod":
        return dict(workload["spec"])
    return dict(workload["spec"]["template"]["spec"])


def _pods(objects: list[Manifest]) -> dict[str, Manifest]:
    kinds = ("DaemonSet", "Deployment", "Job", "Pod")
    return {o["metadata"]["name"]: _pod(o) for o in objects if o["kind"] in kinds}


def test_lint_finds_nothing(helm_binary: str) -> None:
    done = _run(helm_binary, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_runs_are_equal_to_the_byte(helm_binary: str) -> None:
    assert _template(helm_binary) == _template(helm_binary)


def test_arguments_are_those_that_the_programs_know(helm_binary: str) -> None:
    pods = _pods(_objects(helm_binary, "agent.guardPercent=25", 'agent.logLevel="debug"'))
    (container,) = pods["som-agent"]["containers"]
    arguments = agent.parser().parse_args(container["args"])
    assert (arguments.guard_percent, arguments.log_level) == (25, "debug")
    assert operator.parser().parse_args(pods["som-operator"]["containers"][0]["args"])
    leaving = operator.parser().parse_args(pods["som-uninstall"]["containers"][0]["args"])
    assert (leaving.command, leaving.timeout_s) == ("uninstall", 240)


def test_probes_ask_where_the_programs_listen(helm_binary: str) -> None:
    for name, parser in (("som-agent", agent.parser()), ("som-operator", operator.parser())):
        (container,) = _pods(_objects(helm_binary))[name]["containers"]
        (port,) = (port for port in container["ports"] if port["name"] == "http")
        assert parser.get_default("endpoint") == f":{port['containerPort']}"
        probes = {
            "startupProbe": "/healthz",
            "livenessProbe": "/healthz",
            "readinessProbe": "/readyz",
        }
        for probe, path in probes.items():
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_images_have_the_version_of_the_chart_unless_pinned(helm_binary: str) -> None:
    images = {
        name: pod["containers"][0]["image"] for name, pod in _pods(_objects(helm_binary)).items()
    }
    assert images["som-agent"] == "localhost/som-agent:0.1.0"
    assert images["som-operator"] == images["som-uninstall"] == images["som-test"]
    pinned = _pods(
        _objects(
            helm_binary, f'images.agent={{"repository": "r/a", "tag": "x", "digest": "{DIGEST}"}}'
        )
    )
    assert pinned["som-agent"]["containers"][0]["image"] == f"r/a@{DIGEST}"


def test_every_pod_can_pull(helm_binary: str) -> None:
    for name, pod in _pods(_objects(helm_binary, 'images.pullSecrets=["a", "b"]')).items():
        assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}], name


@pytest.mark.parametrize("keep", [True, False])
def test_crds_stay_after_uninstall_when_kept(helm_binary: str, keep: bool) -> None:
    objects = _objects(helm_binary, f"crds.keep={str(keep).lower()}")
    crds = [o for o in objects if o["kind"] == "CustomResourceDefinition"]
    assert len(crds) == 2
    for crd in crds:
        annotations = crd["metadata"].get("annotations", {})
        assert (annotations.get("helm.sh/resource-policy") == "keep") is keep


def test_crds_can_be_left_to_others(helm_binary: str) -> None:
    kinds = {o["kind"] for o in _objects(helm_binary, "crds.install=false")}
    assert "CustomResourceDefinition" not in kinds


def test_policies_name_the_accounts_of_the_release(helm_binary: str) -> None:
    objects = _objects(helm_binary, namespace="elsewhere")
    for policy, accounts in (
        ("som-agent", ["som-agent"]),
        ("som-operator", ["som-operator", "som-uninstall"]),
    ):
        found = _one(objects, "ValidatingAdmissionPolicy", policy)
        (condition,) = found["spec"]["matchConditions"]
        for account in accounts:
            assert f"'system:serviceaccount:elsewhere:{account}'" in condition["expression"]
    assert "som-system" not in yaml.safe_dump(objects)


def test_an_agent_of_an_update_starts_before_the_old_one_ends(helm_binary: str) -> None:
    daemonset = _one(_objects(helm_binary), "DaemonSet", "som-agent")
    assert daemonset["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "5%", "maxUnavailable": 0},
    }
    pod = _pod(daemonset)
    assert "hostNetwork" not in pod
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert not any("hostPort" in port for c in pod["containers"] for port in c["ports"])


def test_agent_sees_of_the_node_only_what_it_needs(helm_binary: str) -> None:
    pod = _pods(_objects(helm_binary))["som-agent"]
    paths = {v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    assert paths == {
        "/var/lib/som",
        "/var/lib/kubelet",
        "/sys/fs/cgroup",
        str(cdi.DIRECTORY),
    }
    propagation = {
        mount["mountPath"]: mount.get("mountPropagation")
        for mount in pod["containers"][0]["volumeMounts"]
    }
    assert propagation["/var/lib/som"] == "Bidirectional"
    # What kubelet unmounts for other pods must not stay mounted here.
    assert propagation["/var/lib/kubelet"] == "HostToContainer"
    assert propagation["/sys/fs/cgroup"] is None


@pytest.mark.parametrize("name", ["som-operator", "som-uninstall", "som-test"])
def test_other_pods_fit_the_restricted_standard(helm_binary: str, name: str) -> None:
    pod = _pods(_objects(helm_binary))[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all("configMap" in volume for volume in pod.get("volumes", ()))
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_directories_of_kubelet_are_mounted_where_the_agent_looks(helm_binary: str) -> None:
    root = "/var/lib/k0s/kubelet"
    pod = _pods(_objects(helm_binary, f'agent.kubeletRootDir="{root}"'))["som-agent"]
    (container,) = pod["containers"]
    arguments = agent.parser().parse_args(container["args"])
    assert str(arguments.kubelet_dir) == "/var/lib/kubelet"
    assert str(arguments.kubelet_root_dir) == root
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert paths.items() < mounts.items()
    assert {"/var/lib/kubelet", root} < set(paths.values())


def test_what_clusters_differ_in_is_a_value(helm_binary: str) -> None:
    for name in ("agent", "operator"):
        pod = _pods(
            _objects(
                helm_binary,
                f'{name}.priorityClassName="mine"',
                f'{name}.affinity={{"podAffinity": {{}}}}',
                f'{name}.tolerations=[{{"key": "k"}}]',
            )
        )[f"som-{name}"]
        assert pod["priorityClassName"] == "mine"
        assert pod["tolerations"] == [{"key": "k"}]
        assert pod["affinity"]["podAffinity"] == {}
        without = _pods(_objects(helm_binary, f'{name}.priorityClassName=""'))[f"som-{name}"]
        assert "priorityClassName" not in without


@pytest.mark.parametrize(("name", "kind"), [("agent", "DaemonSet"), ("operator", "Deployment")])
def test_labels_and_annotations_of_pods_stand_beside_the_selectors(
    helm_binary: str, name: str, kind: str
) -> None:
    objects = _objects(
        helm_binary, f'{name}.podLabels={{"team": "db"}}', f'{name}.podAnnotations={{"a": "b"}}'
    )
    spec = _one(objects, kind, f"som-{name}")["spec"]
    metadata = spec["template"]["metadata"]
    assert metadata["annotations"].pop("a") == "b"
    assert set(metadata["annotations"]) <= {"som.io/driver-pod"}
    assert {**spec["selector"]["matchLabels"], "team": "db"}.items() <= metadata["labels"].items()


def test_selectors_are_those_of_the_first_release(helm_binary: str) -> None:
    """They cannot be changed: an upgrade would be refused."""
    objects = _objects(helm_binary)
    for kind, name in (("DaemonSet", "agent"), ("Deployment", "operator")):
        assert _one(objects, kind, f"som-{name}")["spec"]["selector"]["matchLabels"] == {
            "app.kubernetes.io/name": "som",
            "app.kubernetes.io/component": name,
        }


def test_agents_stay_off_nodes_that_are_no_machines(helm_binary: str) -> None:
    affinity = _pods(_objects(helm_binary))["som-agent"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}


def test_who_reaches_which_port(helm_binary: str) -> None:
    """Of every port of the pods: metrics are read by those who are named, by default by nobody."""
    closed = _objects(helm_binary)
    spec = _one(closed, "NetworkPolicy", "som")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    operator = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "operator"}
    others = [
        {"ports": [{"port": "api"}]},
        {"from": [{"podSelector": {"matchLabels": operator}}], "ports": [{"port": "leases"}]},
    ]
    assert spec["ingress"] == others
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    opened = _objects(helm_binary, f"metrics.from=[{json.dumps(peer)}]")
    rules = _one(opened, "NetworkPolicy", "som")["spec"]["ingress"]
    assert rules == [*others, {"from": [peer], "ports": [{"port": "http"}]}]
    named = {port["port"] for rule in rules for port in rule["ports"]}
    containers = [c for pod in _pods(closed).values() for c in pod["containers"]]
    assert {port["name"] for c in containers for port in c.get("ports", ())} == named


def _driver_pod(objects: list[Manifest]) -> Manifest:
    text = _one(objects, "ConfigMap", "som-driver")["data"]["pod.yaml"]
    return dict(yaml.safe_load(text)["spec"])


def test_who_loads_the_driver_is_a_value(helm_binary: str) -> None:
    objects = _objects(helm_binary, "driver.load=false")
    assert not any("driver" in o["metadata"]["name"] for o in objects)
    assert not [o for o in objects if o["kind"] == "Role" and _creates_pods(o)]
    for name, pod in _pods(objects).items():
        if name != "som-agent":
            assert "volumes" not in pod
            assert not [word for word in pod["containers"][0].get("args", ()) if "driver" in word]


def _creates_pods(role: Manifest) -> bool:
    return any("pods" in r["resources"] and "create" in r["verbs"] for r in role["rules"])


def test_only_the_operator_and_the_uninstall_make_pods_and_only_near_them(helm_binary: str) -> None:
    makers = [o for o in _objects(helm_binary) if o["kind"].endswith("Role") and _creates_pods(o)]
    assert {(o["kind"], o["metadata"]["name"], o["metadata"]["namespace"]) for o in makers} == {
        ("Role", "som-operator", "som-system"),
        ("Role", "som-uninstall", "som-system"),
    }


def test_a_secret_that_signs_is_mounted_where_the_driver_is_built(helm_binary: str) -> None:
    plain = _driver_pod(_objects(helm_binary))
    signing = _driver_pod(_objects(helm_binary, 'driver.signingSecret="keys"'))
    assert [v for v in signing["volumes"] if v not in plain["volumes"]] == [
        {"name": "signing", "secret": {"secretName": "keys", "defaultMode": 0o400}}
    ]
    (added,) = (
        mount
        for mount in signing["containers"][0]["volumeMounts"]
        if mount not in plain["containers"][0]["volumeMounts"]
    )
    assert added == {"name": "signing", "mountPath": "/etc/som/signing", "readOnly": True}


def test_what_the_driver_pod_is_made_of_is_a_value(helm_binary: str) -> None:
    pod = _driver_pod(
        _objects(
            helm_binary,
            f'images.driver={{"repository": "r/d", "digest": "{DIGEST}"}}',
            'images.pullSecrets=["a"]',
            'driver.priorityClassName=""',
            'driver.resources={"limits": {"memory": "1Gi"}}',
        )
    )
    (container,) = pod["containers"]
    assert container["image"] == f"r/d@{DIGEST}"
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert pod["imagePullSecrets"] == [{"name": "a"}]
    assert "priorityClassName" not in pod


def test_an_operator_whose_driver_pod_has_changed_starts_again(helm_binary: str) -> None:
    marks = [
        _one(_objects(helm_binary, *settings), "Deployment", "som-operator")["spec"]["template"][
            "metadata"
        ]["annotations"]["som.io/driver-pod"]
        for settings in ((), ('images.driver.tag="2"',))
    ]
    assert marks[0] != marks[1]


def test_no_right_is_wider_than_a_list_of_names(helm_binary: str) -> None:
    for role in _objects(helm_binary):
        if role["kind"] not in ("ClusterRole", "Role"):
            continue
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "pods/exec" not in rule["resources"]
            if role["metadata"]["name"] != "som-uninstall-record" and "resourceNames" not in rule:
                assert not {"secrets", "configmaps"} & set(rule["resources"])


def test_the_record_of_helm_can_be_read_only_while_helm_uninstalls(helm_binary: str) -> None:
    role = _one(_objects(helm_binary), "Role", "som-uninstall-record")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]
    assert role["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    policy = role["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert "hook-succeeded" in policy


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("agent.guardPercent=100", "guardPercent"),
        ("agent.guard=5", "guard"),
        ('images.agent={"repository": ""}', "repository"),
        ('images.operator.digest="sha256:short"', "digest"),
        ('images.pullPolicy="Sometimes"', "pullPolicy"),
        ('crds.keep="yes"', "keep"),
        ('test.unit="4Mi"', "unit"),
        ("webhook.enabled=true", "webhook"),
        ('agent.kubeletRootDir="kubelet"', "kubeletRootDir"),
        ('agent.kubeletDir="/"', "kubeletDir"),
        (
            'agent.updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "5"}}',
            "maxSurge",
        ),
        ('agent.updateStrategy={"type": "Recreate"}', "updateStrategy"),
        ('agent.podLabels={"app.kubernetes.io/name": "x"}', "app.kubernetes.io/name"),
        ('operator.podAnnotations={"a": 1}', "podAnnotations"),
        ('agent.resources={"request": {}}', "resources"),
        ('metrics.from=["monitoring"]', "from"),
        ('metrics.podMonitor.interval="often"', "interval"),
        ('operator.env=[{"name": "POD_NAMESPACE", "value": "x"}]', "env"),
        ('agent.env=[{"value": "x"}]', "env"),
        ('operator.topologySpreadConstraints=[{"maxSkew": 1}]', "topologySpreadConstraints"),
        ('networkPolicy.egressTo=["10.0.0.1"]', "egressTo"),
        ("metrics.podmonitor.create=true", "podmonitor"),
        ('metrics.alerts.runbooks=""', "runbooks"),
        ('commonLabels={"app.kubernetes.io/name": "x"}', "app.kubernetes.io/name"),
    ],
)
def test_wrong_value_is_refused_by_name(helm_binary: str, setting: str, named: str) -> None:
    words = ["template", "som", str(CHART), "--kube-version", binaries.KUBERNETES]
    done = _run(helm_binary, *words, "--set-json", setting)
    assert done.returncode != 0
    assert named in done.stderr


def test_cluster_without_mutating_policies_is_refused(helm_binary: str) -> None:
    done = _run(helm_binary, "template", "som", str(CHART), "--kube-version", "1.35.9")
    assert "requires kubeVersion: >=1.36.0-0" in done.stderr
