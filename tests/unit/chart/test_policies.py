"""The golden cases of admission, judged by the policies' own CEL without an API server.

What the API server does besides (canonical quantities, its own validation, cost limits) is in
`tests/cluster/api/test_admission.py`, on the same cases.
"""

import copy
import pathlib
from typing import Any

import pytest
import yaml
from kubernetes.utils import quantity

from unit.chart import cel, templates

GOLDEN = pathlib.Path(__file__).parents[2] / "cluster/golden/admission"
CASES = pytest.mark.parametrize("case", sorted(GOLDEN.glob("*.yaml")), ids=lambda case: case.stem)
TICKETS = templates.one("admission/tickets.yaml", "MutatingAdmissionPolicy")["spec"]
PODS = templates.one("admission/pods.yaml", "ValidatingAdmissionPolicy")["spec"]
USER = {"username": "mallory", "groups": ["system:authenticated"]}
KUBELET = {"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}

Pod = dict[str, Any]


def _pod(spec: dict[str, Any]) -> Pod:
    """As the API server shows a new pod to policies: requests are set, containers may be null."""
    spec = copy.deepcopy(spec)
    for container in [*spec.get("initContainers", ()), *spec.get("containers", ())]:
        resources = container.setdefault("resources", {})
        for amounts in resources.values():
            amounts.update({name: str(amount) for name, amount in amounts.items()})
        if limits := resources.get("limits"):
            resources.setdefault("requests", dict(limits))
    return {"metadata": {}, "spec": {**spec, "containers": spec.get("containers") or None}}


def _asked(policy: dict[str, Any], pod: Pod, user: dict[str, Any]) -> bool:
    """Whether the policy has anything to say on the pod."""
    conditions = policy["matchConditions"]
    request = {"userInfo": user}
    return all(cel.evaluate(c["expression"], object=pod, request=request) for c in conditions)


def _mutated(pod: Pod, user: dict[str, Any] = USER) -> Pod:
    pod = copy.deepcopy(pod)
    if _asked(TICKETS, pod, user):
        for mutation in TICKETS["mutations"]:
            known = cel.variables(TICKETS, object=pod)
            expression = mutation["jsonPatch"]["expression"]
            for patch in cel.evaluate(expression, object=pod, variables=known):
                _add(pod, **patch)
    return pod


def _add(document: Any, *, op: str, path: str, value: Any) -> None:
    """RFC 6902's `add`, the only operation of the policy."""
    assert op == "add"
    *steps, last = [step.replace("~1", "/") for step in path.split("/")[1:]]
    for step in steps:
        document = document[int(step)] if isinstance(document, list) else document[step]
    if isinstance(document, list):
        document.insert(int(last), value)
    else:
        document[last] = value


def _refusal(pod: Pod, user: dict[str, Any] = USER) -> str:
    if not _asked(PODS, pod, user):
        return ""
    known = cel.variables(PODS, object=pod)
    for rule in PODS["validations"]:
        if not cel.evaluate(rule["expression"], object=pod, variables=known):
            return str(cel.evaluate(rule["messageExpression"], object=pod, variables=known))
    return ""


def _shown(pod: Pod) -> dict[str, Any]:
    found = {}
    for container in [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]:
        limits = container["resources"].get("limits")
        assert limits == container["resources"].get("requests")
        parts = {"limits": limits, "env": container.get("env")}
        found[container["name"]] = {name: part for name, part in parts.items() if part}
    return found


def _numbers(shown: dict[str, Any]) -> dict[str, Any]:
    """Limits as numbers: the API server writes `1` where a user wrote `1000m`."""
    return {
        name: {
            "limits": {r: quantity.parse_quantity(q) for r, q in parts.get("limits", {}).items()},
            "env": parts.get("env"),
        }
        for name, parts in shown.items()
    }


@CASES
def test_golden_case(case: pathlib.Path) -> None:
    golden = yaml.safe_load(case.read_text())
    mutated = _mutated(_pod(golden["pod"]))
    if "kubernetes" in golden:
        return  # To be refused by the API server itself: it is enough that no policy failed.
    assert _refusal(mutated) == golden.get("refused", "")
    if "becomes" in golden:
        assert _numbers(_shown(mutated)) == _numbers(golden["becomes"])
        assert _mutated(mutated) == mutated


@CASES
def test_a_mirror_pod_is_left_to_the_kubelet_of_its_node_and_to_nobody_else(
    case: pathlib.Path,
) -> None:
    pod = _pod({**yaml.safe_load(case.read_text())["pod"], "nodeName": "n1"})
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    without = _pod(yaml.safe_load(case.read_text())["pod"])
    assert not _asked(TICKETS, pod, KUBELET)
    assert not _asked(PODS, pod, KUBELET)
    for other in (
        USER,
        {**KUBELET, "groups": ["system:authenticated"]},
        {**KUBELET, "username": "system:node:n2"},
    ):
        assert _asked(TICKETS, pod, other) == _asked(TICKETS, without, USER)
        assert _asked(PODS, pod, other) == _asked(PODS, without, USER)


@pytest.mark.parametrize("unit", ["2Mi", "1Gi"])
@pytest.mark.parametrize(
    "amount",
    ["1.5", "1500m", "0.1", "-1", "-128Mi", "100E", "9Ei", "4398046511104", "1e30", "9e99"],
)
def test_no_amount_makes_a_policy_speak_in_cel(unit: str, amount: str) -> None:
    for container in ({}, {"restartPolicy": "Always"}):
        asking = {"name": "a", "resources": {"limits": {f"som.io/{unit}": amount}}, **container}
        pod = _pod({"containers": [{"name": "b"}], "initContainers": [asking]})
        refusal = _refusal(_mutated(pod))
        assert refusal == "" or refusal.startswith(("container a: som.io/", "init container a req"))
