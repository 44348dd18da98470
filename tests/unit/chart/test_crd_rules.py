"""What the CRDs say to a manifest, by their own schema and CEL, without an API server."""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sompools
from som_api import v1alpha1
from som_api.v1alpha1 import crd
from unit.chart import cel

KINDS = {kind.name: kind.model for kind in crd.KINDS}
Schema = dict[str, Any]


@functools.cache
def _schema(kind: type[Any]) -> Schema:
    return crd.schema(kind)


def _with_defaults(schema: Schema, value: Any) -> Any:
    """What the API server makes of `value` before it asks the rules."""
    if isinstance(value, list):
        return [_with_defaults(schema["items"], element) for element in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    fields = schema["properties"]
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    return {
        name: _with_defaults(fields.get(name, {}), field)
        for name, field in {**defaults, **value}.items()
    }


def _refusals(kind: Any, manifest: dict[str, Any]) -> list[str]:
    schema = _schema(kind)
    return list(_broken_rules(schema, _with_defaults(schema, manifest)))


def _broken_rules(schema: Schema, value: Any) -> Iterator[str]:
    """Messages of the CEL rules that `value` breaks, as for an object that is created."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not cel.evaluate(rule["rule"], self=value):
            yield rule["message"]
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(field, value[name])
    for element in value if isinstance(value, list) else ():
        yield from _broken_rules(schema["items"], element)


@pytest.mark.parametrize("example", sompools.VALID, ids=lambda example: example.title)
def test_valid_pool_breaks_no_rule(example: sompools.Example) -> None:
    assert _refusals(v1alpha1.SomPool, example.manifest) == []


@pytest.mark.parametrize(
    "example", [e for e in sompools.INVALID if e.cel], ids=lambda example: example.title
)
def test_pool_that_only_a_rule_can_refuse_breaks_one(example: sompools.Example) -> None:
    assert _refusals(v1alpha1.SomPool, example.manifest)


def _refused_changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    rules = _schema(v1alpha1.SomPool)["properties"]["spec"]["x-kubernetes-validations"]
    return {
        rule["fieldPath"]
        for rule in rules
        if "oldSelf" in rule["rule"] and not cel.evaluate(rule["rule"], self=after, oldSelf=before)
    }


def test_unit_kind_of_source_and_driver_are_immutable() -> None:
    small, carved = sompools.spec(), sompools.spec(source=sompools.CARVED)
    assert _refused_changes(small, sompools.spec(unit="1Gi")) == {".unit"}
    assert _refused_changes(carved, sompools.devices("dax0.0")) == {".source"}
    assert _refused_changes(small, carved) == {".source", ".driver"}
    assert _refused_changes(small, sompools.spec(driver={"type": "Kernel"})) == {".driver"}


def test_all_else_of_a_pool_may_change() -> None:
    for before, after in sompools.CHANGES:
        assert _refused_changes(before, after) == set()


def _values(schema: Schema) -> st.SearchStrategy[Any]:
    """Anything that the schema lets in; its CEL rules are not looked at."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        text = st.from_regex(schema["pattern"], fullmatch=True)
        return st.integers(schema["minimum"], schema["maximum"]) | text
    match schema["type"]:
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "boolean":
            return st.booleans()
        case "array":
            fewest, most = schema.get("minItems", 0), min(3, schema.get("maxItems", 3))
            return st.lists(_values(schema["items"]), min_size=fewest, max_size=most)
        case "string" if schema.get("format") == "date-time":
            return st.datetimes().map(lambda time: f"{time.isoformat()}Z")
        case "string" if "pattern" in schema:
            most = schema.get("maxLength", math.inf)
            text = st.from_regex(schema["pattern"], fullmatch=True)
            return text.filter(lambda value: len(value) <= most)
        case "string":
            return st.text(max_size=schema["maxLength"])
    if "additionalProperties" in schema:
        keys = st.text(max_size=317)
        return st.dictionaries(keys, _values(schema["additionalProperties"]), max_size=3)
    fields = {name: _values(field) for name, field in schema.get("properties", {}).items()}
    required = {name: fields.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=fields)


@functools.cache
def _objects(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    parts = _schema(KINDS[kind])["properties"]
    return st.fixed_dictionaries(
        {
            "apiVersion": st.just(v1alpha1.API_VERSION),
            "kind": st.just(kind),
            "metadata": st.just({"name": "n"}),
            "spec": _values(parts["spec"]),
            "status": _values(parts["status"]),
        }
    )


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_the_crd_lets_in_is_read_and_can_be_written_back(
    kind: str, data: st.DataObject
) -> None:
    manifest = data.draw(_objects(kind))
    if _refusals(KINDS[kind], manifest):
        return
    read = KINDS[kind].model_validate(manifest)
    _assert_fits(_schema(KINDS[kind]), read.model_dump(mode="json", by_alias=True))


def _assert_fits(schema: Schema, value: Any) -> None:
    """Whether what we write is within the schema's bounds, as far as they concern its values."""
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if value.get(name) is not None:
                _assert_fits(field, value[name])
    elif isinstance(value, list):
        for element in value:
            _assert_fits(schema["items"], element)
    elif isinstance(value, str) and "pattern" in schema:
        assert re.fullmatch(schema["pattern"], value), value
