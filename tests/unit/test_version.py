"""The version is pyproject.toml's; what cannot be derived from it says the same."""

import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("device-plugin/som_device_plugin/__init__.py", r'__version__ = "(.*)"'),
        ("charts/som/Chart.yaml", r"^version: (.*)"),
        ("charts/som/Chart.yaml", r"^appVersion: (.*)"),
        ("driver/ctl.c", r'MODULE_VERSION\("(.*)"\)'),
        ("driver/dkms.conf", r'PACKAGE_VERSION="(.*)"'),
        ("README.md", r"som-\$part:(\S+)"),
        ("docs/tutorial/first-pod.md", r"som-\$part:(\S+)"),
    ],
)
def test_every_part_has_the_version_of_the_project(path: str, pattern: str) -> None:
    assert re.findall(pattern, (ROOT / path).read_text(), re.M)[:1] == [VERSION]
