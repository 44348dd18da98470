"""What the operator may run: driver pods as the chart has them, and no other."""

import copy
from typing import Any

import pytest
import yaml

from som_operator.loading import pods
from unit.chart import cel, templates

HELPERS = (templates.CHART / "templates/_helpers.tpl").read_text()


def template() -> dict[str, Any]:
    """The pod of the chart, without a signing Secret."""
    text = HELPERS.partition('define "som.driverPod" -}}')[2].partition("{{- end -}}\n")[0]
    made: dict[str, Any] = yaml.safe_load(templates.plain(text))
    spec = made["spec"]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "signing"]
    return made


def pod() -> dict[str, Any]:
    return pods.make(template(), node="n", somnode_uid="u", task="load", boot_id="b", attempt=1)


def refusal(made: dict[str, Any], *, operation: str = "CREATE") -> str:
    """What the policy says to the operator's pod, or ""."""
    policy = templates.one("admission/driver.yaml", "ValidatingAdmissionPolicy")["spec"]
    is_new = operation == "CREATE"
    values = {
        "object": made if is_new else None,
        "oldObject": None if is_new else made,
        "request": {"operation": operation},
    }
    known = cel.variables(policy, **values)
    for rule in policy["validations"]:
        if not cel.evaluate(rule["expression"], **values, variables=known):
            return str(rule["message"])
    return ""


def test_the_operators_pods_pass() -> None:
    assert refusal(pod()) == ""
    assert refusal(pod(), operation="DELETE") == ""


def test_the_pod_is_root_with_one_capability_and_reads_the_node() -> None:
    (container,) = template()["spec"]["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SYS_MODULE"]}
    assert "privileged" not in security
    hosts = {v["name"] for v in template()["spec"]["volumes"] if "hostPath" in v}
    assert hosts == {m["name"] for m in container["volumeMounts"] if m.get("readOnly")} - {
        "signing"
    }


@pytest.mark.parametrize("operation", ["CREATE", "DELETE"])
def test_other_pods_are_none_of_its_business(operation: str) -> None:
    made = pod()
    made["metadata"]["name"] = "som-agent-x"
    assert "only pods whose names begin with som-driver-" in refusal(made, operation=operation)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "evil"}, "only the driver's image"),
        ({"command": ["sh"]}, "only the driver's image"),
        ({"args": ["sh"]}, "only the driver's image"),
        ({"env": [{"name": "LD_PRELOAD", "value": "x"}]}, "only the driver's image"),
        ({"securityContext": {"privileged": True}}, "no other"),
        ({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "no other"),
    ],
    ids=str,
)
def test_a_container_that_is_another_is_refused(change: dict[str, Any], said: str) -> None:
    made = pod()
    made["spec"]["containers"][0] |= change
    assert said in refusal(made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostPID": True}, "no namespace with the node"),
        ({"hostNetwork": True}, "no namespace with the node"),
        ({"automountServiceAccountToken": True}, "no token"),
        ({"initContainers": [{"name": "a", "image": "b"}]}, "no other"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/etc"}}]}, "nothing else of it"),
        ({"volumes": [{"name": "scratch", "hostPath": {"path": "/usr"}}]}, "nothing else of it"),
        ({"volumes": [{"name": "x", "projected": {"sources": []}}]}, "nothing else of it"),
    ],
    ids=str,
)
def test_a_pod_that_reaches_further_is_refused(change: dict[str, Any], said: str) -> None:
    made = copy.deepcopy(pod())
    made["spec"] |= change
    assert said in refusal(made)
