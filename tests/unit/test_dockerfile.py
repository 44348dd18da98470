"""The Dockerfile copies only what .dockerignore lets through."""

import fnmatch
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def test_what_is_copied_is_in_the_context() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    copied = {word.split("/")[0] for words in copies if "--from" not in words[0] for word in words}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert not [each for each in copied if not any(fnmatch.fnmatch(each, p) for p in let_through)]
