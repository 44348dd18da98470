"""A release is the same bytes each time: all but the images, then all, from the base images on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cluster.harness import binaries, images
from release import parts, tree

DIGEST = f"sha256:{'0' * 64}"
DIGESTS = {"agent": DIGEST, "operator": DIGEST, "driver": DIGEST}

_MAKE = """\
import pathlib, sys
from release import __main__ as release
release.make(pathlib.Path.cwd(), pathlib.Path(sys.argv[1]), registry="registry.test/som")
"""


@pytest.mark.full
def test_all_of_a_release_is_the_same_bytes_twice(tmp_path: Path) -> None:
    binaries.install_packages()
    tools = tmp_path / "tools"
    lock = ["--require-hashes", f"--target={tools}", "-r", "release/requirements.lock"]
    _python(["-m", "pip", "install", "--quiet", *lock])
    with binaries.one_builder():
        environment = {**images.settings(tmp_path), "PYTHONPATH": str(tools)}
        made = []
        for name in ("first", "second"):
            _python(["-c", _MAKE, str(tmp_path / name)], environment)
            files = sorted((tmp_path / name).iterdir())
            made.append(
                {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
            )
    assert made[0] == made[1]
    [materials] = (tmp_path / "first").glob("*.cdx.json")
    inside = {
        image["name"]: {package["name"] for package in image["components"]}
        for image in json.loads(materials.read_text())["components"]
    }
    assert {"libc6", "pydantic"} <= inside["som-agent"] & inside["som-operator"]
    assert {"libc6", "gcc-14"} <= inside["som-driver"]


def _without_images(source: tree.Tree, dist: Path) -> dict[str, str]:
    """All that needs no container, and the digest of each file."""
    parts.module(source, dist)
    parts.python(source, dist)
    parts.chart(source, dist, registry="registry.test/som", digests=DIGESTS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dist.iterdir()}


def test_twice_made_is_the_same_and_so_is_what_the_sdist_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dist := tmp_path / "dist").mkdir()
    source = tree.export(images.PROJECT, tmp_path / "source")
    made = _without_images(source, dist)
    with tarfile.open(dist / f"som-{source.version}.tar.gz") as tar:
        tar.extractall(tmp_path / "sdist", filter="data")
    [wheel] = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "som_device_plugin/kubelet/deviceplugin_pb2.py" in names
    packages = {name.split("/")[0] for name in names}
    assert {"som_api", "som_operator", "som_device_plugin"} <= packages

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    unpacked = tmp_path / "sdist" / f"som-{source.version}"
    for folder in ("driver", "charts"):
        shutil.copytree(source.folder / folder, unpacked / folder)
    before = os.umask(0o077)
    try:
        again = _without_images(dataclasses.replace(source, folder=unpacked), elsewhere)
    finally:
        os.umask(before)
    # setuptools gives an sdist of an sdist one file more.
    different = [name for name, digest in again.items() if digest != made[name]]
    assert different == [f"som-{source.version}.tar.gz"]


def _python(words: list[str], environment: dict[str, str] | None = None) -> None:
    """Run Python in the project's folder, of whose HEAD the release is."""
    subprocess.run(
        [sys.executable, *words],
        cwd=images.PROJECT,
        env={**os.environ, **(environment or {})},
        check=True,
    )
