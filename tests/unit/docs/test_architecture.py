"""Every `file: function` of the walks exists."""

import ast
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[3]
PAGE = ROOT / "docs/explanation/architecture.md"
BESIDE = ("", "device-plugin/som_device_plugin", "operator/som_operator")
STEPS = sorted(set(re.findall(r"`([\w/.-]+\.(?:py|c)): ([\w.]+)`", PAGE.read_text())))
OF_THE_MODULE = sorted(set(re.findall(r"`((?:som(?!_api)|take|zero)_\w+)`", PAGE.read_text())))


@functools.cache
def _names(path: pathlib.Path) -> set[str]:
    """`function`, `Class` and `Class.method` of a file of Python, functions of one of C."""
    text = path.read_text()
    if path.suffix == ".c":
        return set(re.findall(r"^(?!#)\w[\w\s*]*?\b(\w+)\([^;]*?\)\s*^\{", text, re.M | re.S))
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{each.name}" for each in getattr(node, "body", ())
                      if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}  # fmt: skip
    return names


def test_all_steps_of_the_walks_exist() -> None:
    missing = [f"{file}: {function}" for file, function in STEPS if not _exists(file, function)]
    assert STEPS
    assert missing == []


def _exists(file: str, function: str) -> bool:
    found = [ROOT / folder / file for folder in BESIDE if (ROOT / folder / file).is_file()]
    return any(function in _names(path) for path in found)


def test_all_functions_of_the_module_exist() -> None:
    there = set().union(*map(_names, (ROOT / "driver").glob("*.c")))
    assert OF_THE_MODULE
    assert set(OF_THE_MODULE) - there == set()
