"""The parts that need no container: chart, Python packages, the module's source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from release import tars
from release.tree import ReleaseError, Tree

_BUILD = """\
import sys, setuptools.build_meta as back
dist = sys.argv[1]
back.build_sdist(dist)
back.build_wheel(dist)
"""


def chart(tree: Tree, dist: Path, *, registry: str, digests: Mapping[str, str]) -> Path:
    """Pack the chart; with a registry, it pulls the images from there, by digest.

    `digests` has one of each component. Without a registry, nodes have the images by name and tag.
    """
    target = dist / f"som-{tree.version}.tgz"
    with tempfile.TemporaryDirectory() as scratch:
        folder = shutil.copytree(tree.folder / "charts/som", Path(scratch) / "som")
        if registry:
            values = folder / "values.yaml"
            values.write_text(_pinned(values.read_text(), registry, digests))
        tars.pack(folder, target, under="som", epoch=tree.epoch)
    return target


def _pinned(values: str, registry: str, digests: Mapping[str, str]) -> str:
    """The text of values.yaml with the images' new homes; comments stay."""
    for name, digest in digests.items():
        values, count = re.subn(
            rf'(^    repository: )localhost/som-{name}$(.*?^    digest: )""$',
            rf'\g<1>{registry}/som-{name}\g<2>"{digest}"',
            values,
            count=1,
            flags=re.M | re.S,
        )
        if count != 1:
            raise ReleaseError(f"values.yaml has no images.{name} with repository and digest")
    return values


def python(tree: Tree, dist: Path) -> None:
    """Write sdist and wheel, which the sdist builds as well."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(tree.epoch), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(dist.resolve())],
        cwd=tree.folder,
        env=environment,
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ReleaseError(f"setuptools: exit status {done.returncode}\n{done.stderr[-2000:]}")
    # setuptools dates an sdist by the clock.
    name = f"som-{tree.version}"
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(dist / f"{name}.tar.gz") as tar:
            tar.extractall(scratch, filter="data")
        tars.pack(Path(scratch) / name, dist / f"{name}.tar.gz", under=name, epoch=tree.epoch)


def module(tree: Tree, dist: Path) -> Path:
    """The source of som.ko, which builds by itself and is laid out as DKMS has it in /usr/src."""
    target = dist / f"som-dkms-{tree.version}.tar.gz"
    tars.pack(tree.folder / "driver", target, under=f"som-{tree.version}", epoch=tree.epoch)
    return target


def kubectl_som(tree: Tree, dist: Path, *, wheels: Path) -> None:
    """kubectl-som for each platform, krew's archives and manifest; `wheels` keeps downloads."""
    command = [sys.executable, str(tree.folder / "kubectl/onefile/build.py"), str(dist.resolve())]
    done = subprocess.run(
        [*command, "--wheels", str(wheels.resolve())], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ReleaseError(f"kubectl-som: exit status {done.returncode}\n{done.stderr[-2000:]}")
