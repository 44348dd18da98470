"""The CRDs on a real API server: every rule refuses, and says why; valid objects pass."""

import json
import re
from typing import Any

import pytest

import sompools
from cluster.api.conftest import ApiServer
from som_api.v1alpha1 import crd


def _dry_run(api_server: ApiServer, manifest: dict[str, Any]) -> str:
    """What kubectl complains about; nothing where it does not."""
    words = ["apply", "--dry-run=server", "--filename=-"]
    done = api_server.try_kubectl(*words, stdin=json.dumps(manifest))
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("example", sompools.VALID, ids=lambda example: example.title)
def test_valid_pool_is_accepted(api_server: ApiServer, example: sompools.Example) -> None:
    assert _dry_run(api_server, example.manifest) == ""


@pytest.mark.parametrize("example", sompools.INVALID, ids=lambda example: example.title)
def test_refusal_names_the_field(api_server: ApiServer, example: sompools.Example) -> None:
    complaint = _dry_run(api_server, example.manifest)
    assert example.refused_at is not None
    assert example.refused_at in complaint
    assert "rule" not in complaint.replace("validation rules", ""), "a rule failed to evaluate"
    if example.cel:
        assert any(message in complaint for message in _messages(crd.KINDS[0]))


def test_every_rule_of_sompools_is_tried(api_server: ApiServer) -> None:
    complaints = [_dry_run(api_server, e.manifest) for e in sompools.INVALID if e.cel]
    complaints += [_refused_change(api_server, *change) for _, *change in IMMUTABLE]
    untried = {m for m in _messages(crd.KINDS[0]) if not any(m in c for c in complaints)}
    assert untried == set()


def _messages(kind: crd.Kind) -> list[str]:
    found = re.findall(
        r'"rule": .*?"message": "(.*?)"|"message": "(.*?)"', json.dumps(crd.schema(kind.model))
    )
    return [first or second for first, second in found]


def _refused_change(api_server: ApiServer, before: dict[str, Any], after: dict[str, Any]) -> str:
    pool = sompools.Example("", before, name="changes").manifest
    api_server.kubectl("apply", "--filename=-", stdin=json.dumps(pool))
    try:
        # Apply would merge the sources.
        words = ["replace", "--dry-run=server", "--filename=-"]
        done = api_server.try_kubectl(*words, stdin=json.dumps({**pool, "spec": after}))
        return done.stderr if done.returncode else ""
    finally:
        api_server.kubectl("delete", "sompool", "changes")


IMMUTABLE = (
    ("spec.unit", sompools.spec(), sompools.spec(unit="1Gi")),
    ("spec.source", sompools.spec(source=sompools.CARVED), sompools.devices("dax0.0")),
    ("spec.driver", sompools.spec(), sompools.spec(driver={"type": "Kernel"})),
    (
        "spec.driver",
        sompools.spec(source=sompools.CARVED),
        sompools.spec(source=sompools.CARVED, driver=sompools.PINNABLE),
    ),
)


@pytest.mark.parametrize(("field", "before", "after"), IMMUTABLE)
def test_what_memory_depends_on_is_immutable(
    api_server: ApiServer, field: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    refused = _refused_change(api_server, before, after)
    assert re.search(rf"{field}: Invalid value: .*{field.split('.')[1]} is immutable", refused)


@pytest.mark.parametrize(("before", "after"), sompools.CHANGES)
def test_all_else_of_a_pool_may_change(
    api_server: ApiServer, before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert _refused_change(api_server, before, after) == ""


def test_page_size_is_persisted(api_server: ApiServer) -> None:
    words = ["create", "--dry-run=server", "--output=json", "--filename=-"]
    created = api_server.kubectl(*words, stdin=json.dumps(sompools.VALID[0].manifest))
    assert json.loads(created)["spec"] == sompools.spec(source={"hugeTLB": {"pageSize": "2Mi"}})


def test_columns_of_kubectl_get(api_server: ApiServer) -> None:
    pool = sompools.Example("", sompools.spec(), name="columns").manifest
    api_server.kubectl("apply", "--filename=-", stdin=json.dumps(pool))
    status = {
        "capacity": "704Gi",
        "allocated": "512Gi",
        "nodes": {"matched": 12, "ready": 11},
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "PartlyReserved",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    patch = ["--subresource=status", "--type=merge", "--patch", json.dumps({"status": status})]
    api_server.kubectl("patch", "sompool", "columns", *patch)
    shown = api_server.kubectl("get", "spool", "columns")
    wide = api_server.kubectl("get", "spool", "columns", "--output=wide")
    api_server.kubectl("delete", "sompool", "columns")
    head, row = shown.splitlines()
    assert head == (
        "NAME      UNIT   CAPACITY   ALLOCATED   NODES   READY-NODES   READY   REASON           AGE"
    )
    assert re.sub(r"\d+s$", "0s", row) == (
        "columns   2Mi    704Gi      512Gi       12      11            False   PartlyReserved   0s"
    )
    assert [line.split()[-1] for line in wide.splitlines()] == ["PER-NODE", "64Gi"]


def test_columns_of_kubectl_get_for_nodes(api_server: ApiServer) -> None:
    node = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "metadata": {"name": "columns"}}
    api_server.kubectl("apply", "--filename=-", stdin=json.dumps(node))
    ready = {"type": "Ready", "status": "True", "reason": "Reserved"}
    status = {
        "poolNames": "cache,databases",
        "capacity": "96Gi",
        "allocated": "64Gi",
        "agentVersion": "0.1.0",
        "kernelVersion": "6.12.118",
        "bootID": "b",
        "module": {"version": "0.2.0", "srcVersion": "5F1C"},
        "conditions": [ready],
    }
    patch = ["--subresource=status", "--type=merge", "--patch", json.dumps({"status": status})]
    api_server.kubectl("patch", "somnode", "columns", *patch)
    shown = api_server.kubectl("get", "snode", "columns")
    wide = api_server.kubectl("get", "snode", "columns", "--output=wide")
    api_server.kubectl("delete", "somnode", "columns")
    assert [line.split()[-3:] for line in wide.splitlines()] == [
        ["KERNEL", "SOM.KO", "BOOT-ID"],
        ["6.12.118", "0.2.0", "b"],
    ]
    head, row = shown.splitlines()
    assert head == (
        "NAME      POOLS             CAPACITY   ALLOCATED   READY   REASON     AGENT   AGE"
    )
    assert re.sub(r"\d+s$", "0s", row) == (
        "columns   cache,databases   96Gi       64Gi        True    Reserved   0.1.0   0s"
    )


def test_both_kinds_are_in_the_category_som(api_server: ApiServer) -> None:
    names = api_server.kubectl("api-resources", "--categories=som", "--output=name")
    assert set(names.split()) == {"sompools.som.io", "somnodes.som.io"}


def test_somnode_with_all_its_fields_is_accepted(api_server: ApiServer) -> None:
    pool = {"name": "p", "generation": 1, "unit": "2Mi", "capacity": "64Mi"}
    ranges = [f"0x{n:x}00000000-0x{n:x}001fffff" for n in range(1, 17)]
    pools = [
        {**pool, "source": {"hugeTLB": {"pageSize": "2Mi"}}},
        {**pool, "name": "q", "source": {"external": {"ranges": ranges}}, "driver": "Kernel"},
    ]
    node = {
        "apiVersion": "som.io/v1alpha1",
        "kind": "SomNode",
        "metadata": {"name": "ip-10-0-0-1." + "x" * 60 + ".internal"},
        "spec": {"pools": pools},
    }
    assert _dry_run(api_server, node) == ""
    twice = {**node, "spec": {"pools": pools[:1] * 2}}
    assert 'spec.pools[1]: Duplicate value: {"name":"p"}' in _dry_run(api_server, twice)


@pytest.mark.parametrize("plural", ["sompools", "somnodes"])
def test_a_status_that_others_have_filled_takes_ours(api_server: ApiServer, plural: str) -> None:
    pool = sompools.Example("", sompools.spec(), name="filled").manifest
    node = {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "metadata": {"name": "filled"}}
    made = pool if plural == "sompools" else node

    def apply(who: str, status: dict[str, Any]) -> dict[str, Any]:
        words = ["apply", "--server-side", "--force-conflicts", "--subresource=status"]
        words += [f"--field-manager={who}", "--output=json", "--filename=-"]
        told = {**{key: made[key] for key in ("apiVersion", "kind", "metadata")}, "status": status}
        return dict(json.loads(api_server.kubectl(*words, stdin=json.dumps(told)))["status"])

    def conditions(*kinds: str) -> list[dict[str, str]]:
        return [{"type": kind, "status": "True", "reason": "Said"} for kind in kinds]

    api_server.kubectl("apply", "--filename=-", stdin=json.dumps(made))
    theirs: dict[str, Any] = {"conditions": conditions(*(f"Theirs{n}" for n in range(16)))}
    ours: dict[str, Any] = {"conditions": conditions("Ready")}
    if plural == "somnodes":
        entry = {"generation": 1, "unit": "2Mi", "capacity": 0, "allocated": 0, "free": 0}
        theirs["pools"] = [{"name": f"theirs-{n}", **entry} for n in range(16)]
        ours["pools"] = [{"name": "ours", **entry}]
    try:
        apply("another", theirs)
        found = apply("som", ours)
    finally:
        api_server.kubectl("delete", plural, "filled")
    assert len(found["conditions"]) == 17
    assert [each["name"] for each in found.get("pools", ())] == ["ours"] * (plural == "somnodes")
