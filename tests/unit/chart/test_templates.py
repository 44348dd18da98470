"""What the chart's objects must have, whatever the values: read from the templates themselves."""

from typing import Any

import pytest

from unit.chart import cel, templates

NAMES = sorted(
    str(path.relative_to(templates.CHART / "templates"))
    for path in (templates.CHART / "templates").rglob("*.yaml")
)
OBJECTS = [found for name in NAMES for found in templates.read(name)]
POLICIES = [found for found in OBJECTS if found["kind"].endswith("AdmissionPolicy")]
BY_NAME = pytest.mark.parametrize("policy", POLICIES, ids=lambda found: found["metadata"]["name"])


@pytest.mark.parametrize("name", NAMES)
def test_documents_of_a_template_stay_apart(name: str) -> None:
    """An action that trims the space before it would join `---` and what follows."""
    assert "\n---\n{{-" not in (templates.CHART / "templates" / name).read_text()


def _agent() -> dict[str, Any]:
    daemonset = templates.one("agent/daemonset.yaml", "DaemonSet")
    return dict(daemonset["spec"]["template"]["spec"])


def test_a_later_agent_finds_the_workers_of_an_earlier_one() -> None:
    assert _agent()["hostPID"] is True


def test_the_agents_mounts_reach_the_node() -> None:
    (container,) = _agent()["containers"]
    assert container["securityContext"]["privileged"] is True
    assert {
        mount["name"]: mount.get("mountPropagation") for mount in container["volumeMounts"]
    } == {
        "state": "Bidirectional",
        # What kubelet unmounts for other pods must not stay mounted here.
        "kubelet": "HostToContainer",
        "kubelet-root": "HostToContainer",
        "cgroups": None,
        "cdi": None,
        "tls": None,
    }


def test_every_pod_says_what_it_needs() -> None:
    """Or a namespace with a quota refuses it."""
    kinds = ("DaemonSet", "Deployment", "Job", "Pod")
    for found in (found for found in OBJECTS if found["kind"] in kinds):
        spec = found["spec"] if found["kind"] == "Pod" else found["spec"]["template"]["spec"]
        assert all("resources" in container for container in spec["containers"]), found


@BY_NAME
def test_a_policy_is_bound_and_refuses_when_it_fails(policy: dict[str, Any]) -> None:
    assert policy["spec"]["failurePolicy"] == "Fail"
    bindings = [
        found["spec"]
        for found in OBJECTS
        if found["kind"] == f"{policy['kind']}Binding"
        and found["spec"]["policyName"] == policy["metadata"]["name"]
    ]
    (binding,) = bindings
    if policy["kind"].startswith("Validating"):
        assert binding["validationActions"] == ["Deny"]


@BY_NAME
def test_a_policy_speaks_in_words(policy: dict[str, Any]) -> None:
    """Where a message cannot be made (it is too long, say), the API server shows `message`."""
    for rule in policy["spec"].get("validations", ()):
        assert rule.get("message"), rule


def _rules(*, account: str) -> list[dict[str, Any]]:
    """The rules of all roles that are bound to the account, each with its role's namespace."""
    found = []
    for binding in OBJECTS:
        if binding["kind"] not in ("ClusterRoleBinding", "RoleBinding"):
            continue
        if account not in (subject["name"] for subject in binding["subjects"]):
            continue
        (role,) = (
            role
            for role in OBJECTS
            if role["kind"] == binding["roleRef"]["kind"]
            and role["metadata"]["name"] == binding["roleRef"]["name"]
            and role["metadata"].get("namespace") == binding["metadata"].get("namespace")
        )
        found += [
            {**rule, "namespace": binding["metadata"].get("namespace")} for rule in role["rules"]
        ]
    return found


@pytest.mark.parametrize("account", ["som-agent", "som-operator"])
def test_events_are_written_in_one_namespace_only(account: str) -> None:
    namespaces = {
        rule["namespace"] for rule in _rules(account=account) if "events" in rule["resources"]
    }
    assert namespaces == {"default"}


@pytest.mark.parametrize("account", ["som-agent", "som-operator", "som-uninstall"])
def test_nobody_of_ours_may_create_delete_or_update_pools(account: str) -> None:
    for rule in _rules(account=account):
        if "sompools" in rule["resources"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch", "patch"}


def test_operator_may_ask_whether_a_pool_is_gone() -> None:
    """Before the memory of a pool that is in no list leaves the nodes."""
    verbs = {
        v
        for r in _rules(account="som-operator")
        if "sompools" in r["resources"]
        for v in r["verbs"]
    }
    assert {"get", "list", "watch", "patch"} <= verbs


def test_no_role_that_people_have_already_may_change_pools() -> None:
    aggregated = [
        found
        for found in OBJECTS
        if any("aggregate-to" in label for label in found["metadata"].get("labels") or ())
    ]
    for role in aggregated:
        for rule in role["rules"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def _operator_may(before: dict[str, Any], after: dict[str, Any]) -> str:
    (policy,) = (found for found in POLICIES if found["metadata"]["name"] == "som-operator-pools")
    request = {"operation": "UPDATE"}
    known = cel.variables(policy["spec"], object=after, oldObject=before)
    for rule in policy["spec"]["validations"]:
        values = {"object": after, "oldObject": before, "request": request, "variables": known}
        if not cel.evaluate(rule["expression"], **values):
            return str(rule["message"])
    return ""


POOL: dict[str, Any] = {
    "metadata": {"name": "p", "resourceVersion": "1", "finalizers": ["a/b"], "labels": {"x": "y"}},
    "spec": {"unit": "2Mi", "capacity": "1Gi"},
}


@pytest.mark.parametrize(
    ("metadata", "refusal"),
    [
        ({"finalizers": ["a/b", "som.io/release"], "resourceVersion": "2"}, ""),
        ({"finalizers": ["a/b"], "managedFields": []}, ""),
        ({"finalizers": []}, "its own finalizer only"),
        ({"finalizers": ["a/b", "c/d"]}, "its own finalizer only"),
        ({"labels": {}}, "its own finalizer only"),
        ({"annotations": {"a": "b"}}, "its own finalizer only"),
    ],
    ids=str,
)
def test_operator_changes_its_finalizer_of_a_pool_and_nothing_else(
    metadata: dict[str, Any], refusal: str
) -> None:
    after = {**POOL, "metadata": {**POOL["metadata"], **metadata}}
    assert refusal in _operator_may(POOL, after)
    assert bool(refusal) == bool(_operator_may(POOL, after))


def test_operator_may_not_change_what_a_pool_says() -> None:
    after = {**POOL, "spec": {**POOL["spec"], "capacity": "2Gi"}}
    assert _operator_may(POOL, after) == "som-operator may not change what SomPools say"
