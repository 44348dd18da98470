"""The generated pages of docs/reference: `python docs/generate.py --write` or `--check`."""

import argparse
import ast
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from som_api.v1alpha1 import crd
from som_api.web import app
from som_kubectl import cli

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


def kubectl_som() -> str:
    """Every command and option of `kubectl som`, from its parsers."""
    commands = cli.commands()
    shared = set.intersection(
        *({a.dest for a in c._actions} for c in commands.values() if c.epilog)
    )
    parts = [
        "# kubectl som\n",
        "Generated from the command line by `make generate`; `kubectl som COMMAND --help` says the",
        "same. [How to use it](../how-to/kubectl-som.md).\n",
    ]
    for name, command in commands.items():
        parts += [f"## kubectl som {name}\n", f"{command.description}\n"]
        rows = _arguments(command, {a.dest for a in command._actions} - shared)
        parts += ["| argument | meaning |", "| --- | --- |", *rows, ""] if rows else []
        parts += [f"{command.epilog}\n"] if command.epilog else []
    parts += ["## All but completion\n", "| argument | meaning |", "| --- | --- |"]
    return "\n".join([*parts, *_arguments(commands["status"], shared - {"help"})])


def _arguments(command: argparse.ArgumentParser, wanted: set[str]) -> list[str]:
    rows = []
    for action in command._actions:
        if action.dest not in wanted | {""} or action.dest == "help":
            continue
        values = (
            ", ".join(map(str, action.choices)) if action.choices else str(action.metavar or "")
        )
        shown = ", ".join(f"`{text}`" for text in action.option_strings)
        shown = f"{shown} {values}".strip() if action.nargs != 0 else shown
        text = (action.help or "as kubectl's").replace("%(default)s", str(action.default))
        rows.append(f"| {shown} | {text} |")
    return rows


def fleet_api() -> str:
    """Every request of the fleet API, its parameters and fields, from its own schema."""
    schema = app.api().openapi()
    parts = [
        "# Fleet API\n",
        "Generated from the code by `make generate`; the API itself serves it as OpenAPI at",
        "`/openapi.json`. [How to ask it](../how-to/fleet-api.md) has examples. A refusal is a",
        "`Status` as the API server's. Bytes are numbers; times are RFC 3339.\n",
    ]
    for path, operations in schema["paths"].items():
        operation = operations["get"]
        parts += [f"## GET {path}\n", f"{operation['description']}\n"]
        if answered := operation["responses"]["200"]["content"].get("application/json"):
            name = _of(answered["schema"])
            parts.append(f"Answers a [{name}](#{name.lower()}).\n")
        else:
            parts.append(f"{operation['responses']['200']['description']}.\n")
        if parameters := operation.get("parameters"):
            parts += ["| parameter | in | type | meaning |", "| --- | --- | --- | --- |"]
            parts += [
                f"| `{each['name']}` | {each['in']} | {_of(each['schema'])} | "
                f"{each.get('description', 'Its name')} |"
                for each in parameters
            ]
            parts.append("")
    for name, model in sorted(schema["components"]["schemas"].items()):
        parts += [f"## {name}\n", f"{model['description'].splitlines()[0]}\n"]
        parts += ["| field | type | meaning |", "| --- | --- | --- |"]
        parts += [
            f"| `{field}` | {_of(shape)} | {shape.get('description', '').replace('<', '&lt;')} |"
            for field, shape in model["properties"].items()
        ]
        parts.append("")
    return "\n".join(parts)


def _of(shape: dict[str, Any]) -> str:
    """The type of a field of the fleet API."""
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    if "anyOf" in shape:
        return " or ".join(_of(each) for each in shape["anyOf"])
    if "enum" in shape:
        return " or ".join(f"`{value}`" if value else "empty" for value in shape["enum"])
    if "const" in shape:
        return f"`{shape['const']}`"
    if shape.get("type") == "array":
        return f"list of {_of(shape['items'])}"
    return str(shape.get("type", "any"))


def kernels() -> str:
    """Which kernels the tiers have passed on, from what `make kernels-tried` has written."""
    tried = json.loads((ROOT / "docs/kernels.json").read_text())
    tiers = ("driver", "vm")
    parts = [
        "# Kernels tried\n",
        "Generated by `make kernels-tried`, from whole runs without a failure. `make test-driver`",
        "runs som.ko alone in virtual machines: all tests on 6.12, and on the others those that",
        "tell more there. `make test-vm` runs the agent in one, and another one is the node of a",
        "cluster.\n",
        f"| kernel (Debian) | {' | '.join(f'`make test-{tier}`' for tier in tiers)} |",
        "| --- | --- | --- |",
    ]
    for release in sorted(tried, key=lambda text: [int(n) for n in re.findall(r"\d+", text)]):
        cells = (tried[release].get(tier) for tier in tiers)
        shown = ("{passed} passed, {day}, som {som}".format(**c) if c else "" for c in cells)
        parts.append(f"| {release} | {' | '.join(shown)} |")
    return "\n".join(parts if tried else [*parts, "| no run is noted yet | | |"])


PAGES = {
    "kubectl-som.md": kubectl_som,
    "crds.md": crds,
    "values.md": values,
    "metrics.md": metrics,
    "fleet-api.md": fleet_api,
    "kernels.md": kernels,
}


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
