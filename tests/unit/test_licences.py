"""Three licences: GPL-2.0-only with the kernel, MIT with any program, Apache-2.0 for the rest."""

import pathlib
import re
import tomllib

import pytest

TAG = "SPDX-License-Identifier"
ROOT = pathlib.Path(__file__).parents[2]
WITH_THE_KERNEL = [
    path.relative_to(ROOT)
    for folder in ("driver", "tests/driver/guest")
    for path in sorted((ROOT / folder).rglob("*.[ch]"))
    if not path.name.endswith(".mod.c")
]


@pytest.mark.parametrize("path", WITH_THE_KERNEL, ids=str)
def test_a_file_of_the_module_names_its_licence(path: pathlib.Path) -> None:
    begin = rf"(//|/\*) {TAG}: GPL-2\.0-only\b"
    assert re.match(begin, (ROOT / path).read_text())


def test_the_text_of_each_licence_is_there_and_of_no_other() -> None:
    annotations = tomllib.loads((ROOT / "REUSE.toml").read_text())["annotations"]
    used = {each[TAG] for each in annotations} | {"Linux-syscall-note"}
    assert {path.stem for path in (ROOT / "LICENSES").iterdir()} == used
    for copy, name in (("LICENSE", "Apache-2.0"), ("driver/LICENSE", "GPL-2.0-only")):
        assert (ROOT / copy).read_text() == (ROOT / "LICENSES" / f"{name}.txt").read_text()
