"""The committed CRDs are the models', and what the API server takes."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from som_api.v1alpha1 import crd

TEMPLATES = pathlib.Path(__file__).parents[3] / "charts/som/templates/crds"
KINDS = pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.name)


def _nodes(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from _nodes(f"{path}.{name}", field)
    for part in ("items", "additionalProperties"):
        if part in node:
            yield from _nodes(f"{path}[]", node[part])


def test_committed_crds_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", str(TEMPLATES)]) == 0, capsys.readouterr().out


def test_stale_crd_is_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    crd.main(["--write", str(tmp_path)])
    (tmp_path / "somnodes.yaml").write_text("old")
    assert crd.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().out == (
        f"{tmp_path}/somnodes.yaml differs from the models; run `make generate`\n"
    )


@KINDS
def test_every_field_has_a_description(kind: crd.Kind) -> None:
    bare = [
        path
        for path, node in _nodes("", crd.schema(kind.model))
        if not node.get("description") and not path.endswith(("[]", ".metadata"))
    ]
    assert bare == []


@KINDS
def test_schema_is_structural(kind: crd.Kind) -> None:
    for path, node in _nodes("", crd.schema(kind.model)):
        assert "$ref" not in node, path
        assert ("type" in node) != bool(node.get("x-kubernetes-int-or-string")), path
        assert not ("properties" in node and "additionalProperties" in node), path


@KINDS
def test_every_list_and_text_is_bounded_but_for_what_others_may_add_to(kind: crd.Kind) -> None:
    for path, node in _nodes("", crd.schema(kind.model)):
        bound = {"array": "maxItems", "string": "maxLength"}.get(node.get("type", "string"))
        given = path in (".apiVersion", ".kind") or "enum" in node
        assert given or bound is None or (bound in node) != path.endswith(".conditions"), path
        assert "additionalProperties" not in node or "maxProperties" in node, path


@KINDS
def test_no_entry_of_others_keeps_one_of_ours_out_of_a_status(kind: crd.Kind) -> None:
    """Server-side apply keeps those of a list with keys: up to its bound they would fill it."""
    for path, node in _shared("", crd.schema(kind.model)["properties"]["status"]):
        (key,) = node["x-kubernetes-list-map-keys"]
        assert "maxItems" not in node or "enum" in node["items"]["properties"][key], path


def _shared(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lists in which others may have entries: one without keys is written whole."""
    for name, field in node["properties"].items():
        if "x-kubernetes-list-map-keys" in field:
            yield f"{path}.{name}", field
            yield from _shared(f"{path}.{name}[]", field["items"])
        elif "properties" in field:
            yield from _shared(f"{path}.{name}", field)


def test_page_size_and_mapping_alone_have_a_persisted_default() -> None:
    defaults = {
        path: node["default"]
        for kind in crd.KINDS
        for path, node in _nodes(kind.name, crd.schema(kind.model))
        if "default" in node and ".status" not in path
    }
    assert defaults == {
        "SomPool.spec.source.hugeTLB.pageSize": "2Mi",
        "SomPool.spec.driver.kernel.mapping": "Bare",
        "SomNode.spec.pools[].source.hugeTLB.pageSize": "2Mi",
    }


def test_columns_of_sompools_wide_ones_last() -> None:
    (kind,) = (kind for kind in crd.KINDS if kind.name == "SomPool")
    assert "NAME " + " ".join(column.name.upper() for column in kind.columns) == (
        "NAME UNIT CAPACITY ALLOCATED NODES READY-NODES READY REASON AGE PER-NODE"
    )


def test_columns_of_somnodes_wide_ones_last() -> None:
    """Of an agent of 0.1, which wrote no sums, the columns are empty."""
    (kind,) = (kind for kind in crd.KINDS if kind.name == "SomNode")
    assert "NAME " + " ".join(column.name.upper() for column in kind.columns) == (
        "NAME POOLS CAPACITY ALLOCATED READY REASON AGENT AGE KERNEL SOM.KO BOOT-ID"
    )
