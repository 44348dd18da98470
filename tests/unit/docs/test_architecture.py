"""Every `file: function` of the walks exists."""

import ast
import functools
import pathlib
import re

import pytest

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


@pytest.mark.parametrize(("file", "function"), STEPS, ids=lambda part: part)
def test_a_step_of_a_walk_exists(file: str, function: str) -> None:
    found = [ROOT / folder / file for folder in BESIDE if (ROOT / folder / file).is_file()]
    assert any(function in _names(path) for path in found), f"{file} has no {function}"


@pytest.mark.parametrize("function", OF_THE_MODULE)
def test_a_function_of_the_module_exists(function: str) -> None:
    assert any(function in _names(path) for path in (ROOT / "driver").glob("*.c"))
