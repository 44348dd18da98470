"""The generated pages of docs/reference: `python docs/generate.py --write` or `--check`."""

import argparse
import ast
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from som_api.v1alpha1 import crd

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"
SUFFIXES = {"Counter": "_total", "CounterMetricFamily": "_total", "InfoMetricFamily": "_info"}


def crds() -> str:
    """Every field of the custom resources, from the models."""
    parts = [
        "# SomPool and SomNode\n",
        "Generated from the models by `make generate`. Both kinds are cluster-scoped, in the API",
        "group `som.io`, version `v1alpha1`, and in the category `som` (`kubectl get som`).\n",
        "Quantities are whole numbers with a suffix: `64Gi`, `512Mi`.\n",
    ]
    for kind in crd.KINDS:
        schema = crd.schema(kind.model)
        names = f"{kind.plural}, {kind.short_name}"
        parts += [f"## {kind.name} ({names})\n", f"{schema['description']}\n"]
        for part in ("spec", "status"):
            parts += [
                f"### {kind.name}: {part}\n",
                "| field | type | meaning |",
                "| --- | --- | --- |",
            ]
            parts += [
                f"| `{path}` | {kind} | {text} |"
                for path, kind, text in _fields(schema["properties"][part], part)
            ]
            parts.append("")
        rules = [
            rule for node in _nodes(schema) for rule in node.get("x-kubernetes-validations", ())
        ]
        if rules:
            parts += ["Refused by the API server, with these messages:\n"]
            parts += [f"- {rule['message']}" for rule in rules]
            parts.append("")
    return "\n".join(parts)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for field in node.get("properties", {}).values():
        yield from _nodes(field)
    if "items" in node:
        yield from _nodes(node["items"])


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in node.get("properties", {}).items():
        below = f"{path}.{name}"
        text = field["description"].rstrip(".").replace("<", "&lt;")
        if "default" in field:
            text += f". Default: `{field['default']}`"
        if name in node.get("required", ()) and path.startswith("spec"):
            text += ". Required"
        yield below, _type(field), text
        yield from _fields(field.get("items", field), below + ("[]" if "items" in field else ""))


def _type(field: dict[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "object" and "additionalProperties" in field:
        return "map of strings"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    return str(field["type"])


def values() -> str:
    """Every value of the chart, from its comments."""
    parts = [
        "# Values of the chart\n",
        "Generated from `charts/som/values.yaml` by `make generate`. Unknown values are refused.\n",
        "| value | default | meaning |",
        "| --- | --- | --- |",
    ]
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (ROOT / "charts/som/values.yaml").read_text().splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("# "))
        elif match := re.match(r"( *)([A-Za-z]+): ?(.*)$", line):
            depth, name, value = len(match[1]), match[2], match[3]
            stack = [entry for entry in stack if entry[0] < depth] + [(depth, name)]
            path = ".".join(entry for _, entry in stack)
            if value or comment:
                shown = f"`{value}`" if value else ""
                parts.append(f"| `{path}` | {shown} | {' '.join(comment)} |")
            comment = []
    return "\n".join(parts)


def metrics() -> str:
    """Every metric, from the calls that make them."""
    parts = ["# Metrics\n", "Generated from the code by `make generate`.\n"]
    for component, port, folder in (
        ("agent", 9808, "device-plugin/som_device_plugin"),
        ("operator", 8080, "operator/som_operator"),
    ):
        parts += [
            f"## som-{component}\n",
            f"Port {port} (`http`) of its pod, path `/metrics`; beside `/healthz` and `/readyz`.\n",
            "| metric | type | labels | meaning |",
            "| --- | --- | --- | --- |",
            *sorted(
                row.replace("som_component_", f"som_{component}_")
                for path in (*(ROOT / folder).rglob("*.py"), ROOT / "api/som_api/kube/metrics.py")
                for row in _metrics(path)
                if component == "operator" or "_component_queue_" not in row
            ),
            "",
        ]
    return "\n".join(parts)


def _metrics(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        texts = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
        if len(texts) < 2 or not texts[0].startswith("som_"):
            continue
        lists = [
            a for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.List)
        ]
        labels = ", ".join(f"`{ast.literal_eval(e)}`" for found in lists for e in found.elts)
        if any(isinstance(a, ast.Name) and a.id == "by_controller" for a in node.args):
            labels = "`controller`"
        kind = node.func.attr
        name = f"{texts[0]}{SUFFIXES.get(kind, '')}"
        shown = kind.removesuffix("MetricFamily").lower()
        yield f"| `{name}` | {shown} | {labels} | {texts[1]} |"


PAGES = {"crds.md": crds, "values.md": values, "metrics.md": metrics}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    write = parser.parse_args().write
    stale = []
    for name, page in PAGES.items():
        path, content = REFERENCE / name, page().rstrip() + "\n"
        if write:
            path.write_text(content)
        elif not path.exists() or path.read_text() != content:
            stale.append(path)
            print(f"{path.relative_to(ROOT)} is out of date; run `make generate`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
