"""Words that a tired reader trips over are in no text of ours."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[3]
PLACES = ("api", "operator", "device-plugin", "driver", "charts", "docs", "examples", "benchmarks")
SUFFIXES = (".py", ".c", ".h", ".md", ".yaml", ".txt", ".tpl", ".proto")


def test_no_text_has_words_that_a_tired_reader_trips_over() -> None:
    texts = [
        *ROOT.glob("*.md"),
        *(path for place in PLACES for path in (ROOT / place).rglob("*")),
    ]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in sorted(texts)
        if path.suffix in SUFFIXES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in re.findall(r"\b(?:shall|anew|to be had)\b", line)
    ]
    assert not found, "say must, again, there is"
