"""Every value of the chart has a comment, which makes the page of values, and a schema."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from unit.chart import templates

PAGE = pathlib.Path(__file__).parents[3] / "docs/reference/values.md"
ROWS = {
    name: (default, meaning)
    for name, default, meaning in re.findall(
        r"^\| `([\w.]+)` \| (.*?) ?\| (.*?) ?\|$", PAGE.read_text(), re.M
    )
}
SCHEMA: dict[str, Any] = json.loads((templates.CHART / "values.schema.json").read_text())


def _leaves(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict) and node:
        for name, below in node.items():
            yield from _leaves(below, (*path, name))
    else:
        yield path


@pytest.mark.parametrize("name", ROWS)
def test_a_value_has_a_comment_and_a_schema(name: str) -> None:
    _, meaning = ROWS[name]
    assert meaning
    node = SCHEMA
    for part in name.split("."):
        assert node["additionalProperties"] is False, f"{name}: a typo beside it passes"
        node = node["properties"][part]
        if "$ref" in node:
            node = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
    assert node.keys() & {"type", "enum", "oneOf"}


def test_the_page_has_every_value() -> None:
    shown = {name for name, (default, _) in ROWS.items() if default}
    for path in _leaves(yaml.safe_load((templates.CHART / "values.yaml").read_text())):
        assert shown & {".".join(path[:end]) for end in range(1, len(path) + 1)}, path
