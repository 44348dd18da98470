"""The version is som_api.VERSION; what cannot be derived from it says the same."""

import pathlib
import re

import pytest

from som_api import VERSION

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("charts/som/Chart.yaml", r"^version: (.*)"),
        ("charts/som/Chart.yaml", r"^appVersion: (.*)"),
        ("driver/main.c", r'MODULE_VERSION\("(.*)"\)'),
        ("driver/dkms.conf", r'PACKAGE_VERSION="(.*)"'),
        ("README.md", r"som-\$part:(\S+)"),
        ("docs/tutorial/first-pod.md", r"som-\$part:(\S+)"),
    ],
)
def test_every_part_has_the_version_of_the_project(path: str, pattern: str) -> None:
    assert re.findall(pattern, (ROOT / path).read_text(), re.M)[:1] == [VERSION]
