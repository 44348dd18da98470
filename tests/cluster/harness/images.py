"""Images without a registry: a Debian base by debootstrap, then ordinary Dockerfiles by buildah."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.harness import binaries
from cluster.harness.errors import ClusterError, run

PAUSE = "localhost/pause:test"
WORKLOAD = "localhost/som-workload:test"
BASE = "docker.io/library/debian:trixie-slim"

PROJECT = Path(__file__).parents[3]
STATIC = Path(__file__).parent / "static"
IMAGES = binaries.CACHE / "images"
AUTHORITIES = Path("/usr/local/share/ca-certificates")
"""Certificate authorities that the machine's administrator added; builds need them, images not."""

SAME_TWICE = "--timestamp=0"
"""Of the same files the same image: then its archive is there, and so is the node's disk."""
KEPT_S = 3600.0
"""For how long an archive stays that another tree may be about to import."""
SLIM = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale")


def compile_static(name: str, target: Path) -> None:
    """Compile one of our C programs to a binary that needs nothing."""
    run(["gcc", "-static", "-O2", "-Wall", "-o", target, STATIC / f"{name}.c"])


def build_static(name: str, *, tag: str) -> Path:
    """An image that holds one static program; return its archive."""
    with tempfile.TemporaryDirectory() as folder:
        compile_static(name, Path(folder) / name)
        dockerfile = Path(folder) / "Dockerfile"
        dockerfile.write_text(f'FROM scratch\nCOPY {name} /{name}\nENTRYPOINT ["/{name}"]\n')
        _buildah(["bud", "--quiet", SAME_TWICE, f"--tag={tag}", folder])
    return _archive(tag)


def build_product(target: str, *, tag: str) -> Path:
    """Build a target of our Dockerfile as anybody with docker would; return its archive."""
    begin = time.monotonic()
    with binaries.one_builder():
        _make_base()
        if target == "agent":
            run(["make", "-s", "-C", PROJECT, "libsom"])
        words = ["bud", "--pull-never", "--isolation=chroot", "--network=host", "--layers"]
        words += [f"--volume={AUTHORITIES}:{AUTHORITIES}:ro", f"--target={target}", f"--tag={tag}"]
        _buildah([*words, str(PROJECT)])
        archive = _archive(tag)
    megabytes = archive.stat().st_size / 1e6
    print(f"built {tag} in {time.monotonic() - begin:.0f} s, {megabytes:.0f} MB packed", flush=True)
    return archive


def build_on(base: str, file: Path, *, at: str, tag: str) -> Path:
    """An image that has one file more than `base`; return its archive."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(file, Path(folder) / "file")
        (Path(folder) / "Dockerfile").write_text(f"FROM {base}\nCOPY file {at}\n")
        _buildah(["bud", "--quiet", "--pull-never", SAME_TWICE, f"--tag={tag}", folder])
    return _archive(tag)


def run_in(tag: str, command: Sequence[str], *, mounts: Mapping[Path, str]) -> str:
    """Run a command in a container of an image, with directories of this machine read-only."""
    container = _buildah(["from", "--pull-never", tag]).strip()
    try:
        volumes = [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
        return _buildah(["run", "--isolation=chroot", *volumes, container, "--", *command])
    finally:
        _buildah(["rm", container])


def retag(tag: str, *, to: str) -> Path:
    """The same image under another tag; return its archive."""
    _buildah(["tag", tag, to])
    return _archive(to)


def settings(folder: Path) -> Mapping[str, str]:
    """Environment in which a plain `buildah` builds as we do; its files are in `folder`."""
    _make_base()
    stored = f'driver = "overlay"\ngraphroot = "{IMAGES}/storage"\nrunroot = "{IMAGES}/run"\n'
    (folder / "storage.conf").write_text(f"[storage]\n{stored}")
    volume = f"{AUTHORITIES}:{AUTHORITIES}:ro"
    (folder / "containers.conf").write_text(f'[containers]\nvolumes = ["{volume}"]\n')
    return {
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }


def _make_base() -> None:
    """The image that the Dockerfile is built from, made once from Debian packages."""
    if _buildah(["images", "--quiet", "--filter", f"reference={BASE}"], check=False).strip():
        return
    print(f"making {BASE} by debootstrap", flush=True)
    with tempfile.TemporaryDirectory(dir=IMAGES) as folder:
        root = Path(folder) / "root"
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        words = ["debootstrap", "--variant=minbase", f"--keyring={keyring}", "trixie"]
        run([*words, root, _mirror()])
        for folder_name in SLIM:
            shutil.rmtree(root / folder_name, ignore_errors=True)
        for path in (root / "var/cache/apt", root / "var/lib/apt/lists"):
            shutil.rmtree(path)
            path.mkdir()
        left_out = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
        run(["tar", "-C", root, "--numeric-owner", *left_out, "-cf", f"{folder}/root.tar", "."])
        shutil.rmtree(root)
        (Path(folder) / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["bash"]\n')
        _buildah(["bud", f"--tag={BASE}", folder])


def _mirror() -> str:
    """The Debian mirror that this machine uses."""
    listing = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    for line in listing.stdout.splitlines():
        if line.rstrip("/").endswith("/debian"):
            return line
    raise ClusterError("apt on this machine knows no Debian mirror: see /etc/apt/sources.list.d")


def _archive(tag: str) -> Path:
    """Pack an image for containerd, unless that was done. Without `tag` nothing is imported."""
    image = _buildah(["inspect", "--type=image", "--format={{.FromImageID}}", tag]).strip()
    name = tag.rpartition("/")[2].replace(":", "-")
    target = IMAGES / f"{name}-{image[:12]}.tar"
    if not target.exists():
        for old in IMAGES.glob(f"{name}-*.tar"):
            if time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink()
        partial = target.with_suffix(".partial")
        _buildah(["push", "--quiet", tag, f"oci-archive:{partial}:{tag}"])
        partial.rename(target)
    target.touch()
    return target


def _buildah(arguments: list[str], *, check: bool = True) -> str:
    IMAGES.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    command = ["nice", "-n", "10", "buildah", f"--root={IMAGES}/storage"]
    command += [f"--runroot={IMAGES}/run", "--storage-driver=overlay", *arguments]
    return run(command, check=check, env=environment).stdout
