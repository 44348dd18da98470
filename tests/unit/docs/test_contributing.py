"""The map of the fakes names each of them, and only those that exist."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[3]


def test_the_map_of_the_fakes_is_complete() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"^\| `(tests/\S+\.py)`", text, re.M)
    missing = [path for path in named if not (ROOT / path).is_file()]
    assert not missing
    unnamed = [
        path.name
        for path in (ROOT / "tests/fakes").glob("*.py")
        if f"`{path.name}`" not in text and f"`tests/fakes/{path.name}`" not in text
    ]
    assert not unnamed
