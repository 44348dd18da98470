"""The CustomResourceDefinitions, generated from the models, as templates of the chart.

A CRD's schema must be structural: no `$ref`, no `null`, no `additionalProperties: false` beside
`properties`; CEL rules travel in the models' `x-kubernetes-validations`.
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from som_api.v1alpha1 import meta, somnode, sompool

Schema = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0

    def as_json(self) -> Schema:
        column: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return {**column, "priority": self.priority} if self.priority else column


def _condition(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")


@dataclasses.dataclass(frozen=True)
class Kind:
    """What of a CRD is not in its model."""

    model: type[meta.ApiModel]
    plural: str
    short_name: str
    columns: tuple[Column, ...]

    @property
    def name(self) -> str:
        return self.model.__name__


KINDS: Final = (
    Kind(
        model=sompool.SomPool,
        plural="sompools",
        short_name="spool",
        columns=(
            Column("Unit", ".spec.unit"),
            Column("Capacity", ".status.capacity"),
            Column("Allocated", ".status.allocated"),
            Column("Nodes", ".status.nodes.matched", "integer"),
            Column("Ready-Nodes", ".status.nodes.ready", "integer"),
            Column("Ready", _condition("status")),
            Column("Reason", _condition("reason")),
            _AGE,
            Column("Per-Node", ".spec.capacity", priority=1),
        ),
    ),
    Kind(
        model=somnode.SomNode,
        plural="somnodes",
        short_name="snode",
        columns=(
            Column("Pools", ".status.poolNames"),
            Column("Capacity", ".status.capacity"),
            Column("Allocated", ".status.allocated"),
            Column("Ready", _condition("status")),
            Column("Reason", _condition("reason")),
            Column("Agent", ".status.agentVersion"),
            _AGE,
            Column("Kernel", ".status.kernelVersion", priority=1),
            Column("Som.ko", ".status.module.version", priority=1),
            Column("Boot-ID", ".status.bootID", priority=1),
        ),
    ),
)

_ROOT_DESCRIPTIONS: Final = {
    "apiVersion": f"Version of the object's schema, {meta.API_VERSION}",
    "kind": "Kind of the object",
}
_KEPT_KEYS: Final = frozenset(
    {
        "anyOf", "description", "enum", "format", "maxItems", "maxLength", "maxProperties",
        "maximum", "minItems", "minLength", "minimum", "pattern", "type",
    }
)  # fmt: skip


def definition(kind: Kind) -> Schema:
    """The CustomResourceDefinition of `kind`, as `kubectl apply` takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{meta.GROUP}"},
        "spec": {
            "group": meta.GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": ["som"],
            },
            "versions": [
                {
                    "name": meta.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.as_json() for column in kind.columns],
                    "schema": {"openAPIV3Schema": schema(kind.model)},
                }
            ],
        },
    }


def schema(model: type[meta.ApiModel]) -> Schema:
    """The structural schema of an object (a model with spec and status)."""
    generated = model.model_json_schema(by_alias=True, mode="validation")
    root = _structural(generated, generated["$defs"])
    root["required"] = ["spec"] if "spec" in root.get("required", ()) else []
    for field, description in _ROOT_DESCRIPTIONS.items():
        root["properties"][field] = {"type": "string", "description": description}
    root["properties"]["metadata"] = {"type": "object"}  # More is forbidden: it is implied.
    return {key: value for key, value in root.items() if value != []}


def _structural(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    if "$ref" in node:
        # Keys beside the reference are the field's own and win, its description above all.
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    if (branches := node.get("anyOf")) and {"type": "null"} in branches:
        (only,) = (branch for branch in branches if branch != {"type": "null"})
        node = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural({**only, **node}, definitions)
    result = {k: v for k, v in node.items() if k in _KEPT_KEYS or k.startswith("x-kubernetes-")}
    if "const" in node:
        result["enum"] = [node["const"]]
    if node.get("type") == "integer":
        result["format"] = "int64"
    # Absent means zero, so only other defaults are persisted.
    if node.get("default") and not isinstance(node["default"], dict):
        result["default"] = node["default"]
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    if isinstance(more := node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(more, definitions)
    if "properties" in node:
        result["properties"] = {
            name: _structural(field, definitions) for name, field in node["properties"].items()
        }
        if node.get("required"):
            result["required"] = node["required"]
    return result


def template(kind: Kind) -> str:
    """The CRD as a template of the chart, switched by `crds.install` and `crds.keep`."""
    text = yaml.safe_dump(definition(kind), sort_keys=False, width=100, allow_unicode=True)
    name = f"metadata:\n  name: {kind.plural}.{meta.GROUP}\n"
    keep = (
        "{{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "{{- end }}\n"
    )
    assert name in text
    return (
        "{{- /* Generated from som_api.v1alpha1 by `make generate`. */ -}}\n"
        "{{- if .Values.crds.install }}\n" + text.replace(name, name + keep, 1) + "{{- end }}\n"
    )


def files() -> Iterator[tuple[str, str]]:
    """(file name, content) of every generated template."""
    for kind in KINDS:
        yield f"{kind.plural}.yaml", template(kind)


def main(arguments: Sequence[str] | None = None) -> int:
    """`--write DIR` writes the templates; `--check DIR` says which of them are out of date."""
    parser = argparse.ArgumentParser(prog="python -m som_api.v1alpha1.crd", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=pathlib.Path, metavar="DIR")
    action.add_argument("--check", type=pathlib.Path, metavar="DIR")
    options = parser.parse_args(arguments)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for name, content in files():
            (options.write / name).write_text(content)
        return 0
    stale = [name for name, content in files() if _read(options.check / name) != content]
    for name in stale:
        print(f"{options.check / name} differs from the models; run `make generate`")
    return 1 if stale else 0


def _read(path: pathlib.Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
