"""The images, by buildah: it needs no daemon and dates all files by the commit.

BuildKit builds the same Dockerfile, but packs layers in its own way: other bytes, other digests.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from release import tars
from release.tree import ReleaseError, Tree

COMPONENTS = ("agent", "operator", "driver")


@dataclass(frozen=True)
class Image:
    """An OCI archive, and the digest that it keeps in a registry."""

    component: str
    archive: Path
    digest: str


def build(tree: Tree, component: str, dist: Path) -> Image:
    """Build an image from its base on, nothing from a cache, for this machine's architecture."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if architecture is None:
        raise ReleaseError(f"{platform.machine()}: som has images for x86_64 and aarch64")
    tag = f"localhost/som-{component}:{tree.version}"
    target = dist / f"som-{component}-{tree.version}-{architecture}.oci.tar"
    if component == "agent":
        _run(["make", "-s", "-C", str(tree.folder), "libsom"])
    with tempfile.TemporaryDirectory(dir=dist) as scratch:
        words = ["bud", f"--timestamp={tree.epoch}", f"--build-arg=SOURCE_DATE_EPOCH={tree.epoch}"]
        words += ["--layers=false", f"--label=org.opencontainers.image.version={tree.version}"]
        words += [f"--label=org.opencontainers.image.revision={tree.commit}"]
        _buildah([*words, f"--target={component}", f"--tag={tag}", str(tree.folder)])
        _buildah(["push", tag, f"oci:{scratch}:{tag}"])
        [entry] = json.loads((Path(scratch) / "index.json").read_text())["manifests"]
        tars.pack(Path(scratch), target, epoch=tree.epoch)
    return Image(component, target, entry["digest"])


def _buildah(words: list[str]) -> None:
    try:
        _run(["buildah", *words])
    except FileNotFoundError as error:
        raise ReleaseError("images are built by buildah: install the package buildah") from error


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        answer = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        raise ReleaseError(f"{' '.join(command)}: exit status {done.returncode}\n{answer}")
