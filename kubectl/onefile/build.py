"""Makes `kubectl-som`: one file for a platform that needs kubectl and python3, and nothing else.

It is a zip of Python: som_kubectl, the parts of som_api that it imports, and the packages that
these need, at the versions and hashes of requirements.lock. One of those is native (pydantic-core),
so each file has its wheels of several Pythons; with all platforms in one file it would be 43 MB.
Twice built, it is the same to the byte.
"""

import argparse
import gzip
import hashlib
import io
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from typing import Final

from som_api import VERSION

ROOT: Final = pathlib.Path(__file__).parents[2]
PURE: Final = ("annotated-types", "pydantic", "pyyaml", "typing-extensions", "typing-inspection")
NATIVE: Final = "pydantic-core"
PYTHONS: Final = ("311", "312", "313", "314", "315")
PLATFORMS: Final = {
    "linux-amd64": "manylinux_2_17_x86_64",
    "linux-arm64": "manylinux_2_17_aarch64",
    "darwin-amd64": "macosx_10_12_x86_64",
    "darwin-arm64": "macosx_11_0_arm64",
}
API: Final = ("__init__.py", "v1alpha1", "plan")
_MOMENT: Final = (1980, 1, 1, 0, 0, 0)

Files = dict[str, bytes]


def build(
    folder: pathlib.Path, wheels: pathlib.Path, *, platforms: tuple[str, ...] = (*PLATFORMS,)
) -> list[pathlib.Path]:
    """Make in `folder` a program and krew's archive of it for each platform, and krew's manifest.

    `wheels` keeps what was downloaded. Raises CalledProcessError where pip cannot get a wheel.
    """
    for each in (folder, wheels):
        each.mkdir(parents=True, exist_ok=True)
    locked = _locked((ROOT / "requirements.lock").read_text())
    everywhere = _everywhere(wheels, locked)
    made, sums = list[pathlib.Path](), dict[str, str]()
    for platform in platforms:
        program = folder / f"kubectl-som-{platform}"
        program.write_bytes(_program(platform, wheels, locked, everywhere))
        program.chmod(0o755)
        archive = folder / f"{program.name}.tar.gz"
        archive.write_bytes(_archive(program.read_bytes()))
        sums[platform] = hashlib.sha256(archive.read_bytes()).hexdigest()
        made += [program, archive]
    manifest = folder / "som.yaml"
    manifest.write_text(_krew(sums))
    return [*made, manifest]


def _locked(lock: str) -> dict[str, str]:
    """By name, what the lock says of a package: version and hashes."""
    found = {}
    for block in re.split(r"\n(?=\w)", lock):
        if match := re.match(r"([\w.-]+)==", block):
            lines = (line for line in block.splitlines() if not line.lstrip().startswith("#"))
            found[match[1].lower()] = "\n".join(lines)
    return found


def _everywhere(wheels: pathlib.Path, locked: dict[str, str]) -> Files:
    """What every Python on every platform takes."""
    files = Files()
    for path in sorted((ROOT / "kubectl/som_kubectl").rglob("*.py")):
        files[f"som_kubectl/{path.name}"] = path.read_bytes()
    for part in API:
        place = ROOT / "api/som_api" / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            files[str(path.relative_to(ROOT / "api"))] = path.read_bytes()
    for name in PURE:
        # PyYAML's native half is not needed, and is of one Python.
        python = "" if name != "pyyaml" else PYTHONS[0]
        wheel = _wheel(wheels, name, locked[name], python, "" if not python else "linux-amd64")
        files |= {n: c for n, c in _unpacked(wheel).items() if not n.endswith(".so")}
    return files


def _program(
    platform: str, wheels: pathlib.Path, locked: dict[str, str], everywhere: Files
) -> bytes:
    files = {f"any/{name}": content for name, content in everywhere.items()}
    for python in PYTHONS:
        wheel = _wheel(wheels, NATIVE, locked[NATIVE], python, platform)
        files |= {f"{python}/{name}": content for name, content in _unpacked(wheel).items()}
    start = (pathlib.Path(__file__).parent / "start.py").read_text()
    of_all = hashlib.sha256(start.encode())
    for name in sorted(files):
        of_all.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    start = start.replace("@build@", of_all.hexdigest()[:16]).replace("@platform@", platform)
    return b"#!/usr/bin/env python3\n" + _zip({**files, "__main__.py": start.encode()})


def _wheel(
    wheels: pathlib.Path, name: str, requirement: str, python: str, platform: str
) -> pathlib.Path:
    """The wheel of a locked package, from `wheels` or from the index; pip checks its hash."""
    version = requirement.split()[0].partition("==")[2]
    folder = wheels / "-".join(filter(None, (name, version, python, platform)))
    if not list(folder.glob("*.whl")):
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", f"--dest={folder}"]
        if platform:
            options += ["--implementation=cp", f"--python-version={python}"]
            options += [f"--platform={PLATFORMS[platform]}"]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(requirement + "\n")
            file.flush()
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
            words = ["download", *options, f"--requirement={file.name}"]
            subprocess.run([*pip, *words], check=True)
    (found,) = folder.glob("*.whl")
    return found


def _unpacked(wheel: pathlib.Path) -> Files:
    """The modules of a wheel, with its licences."""
    with zipfile.ZipFile(wheel) as opened:
        return {
            name: opened.read(name)
            for name in opened.namelist()
            if not name.endswith(("/", ".pyi", "RECORD"))
        }


def _zip(files: Files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            opened.writestr(entry, files[name], compresslevel=9)
    return content.getvalue()


def _archive(program: bytes) -> bytes:
    """What krew unpacks."""
    content = io.BytesIO()
    licence = (ROOT / "LICENSE").read_bytes()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", mtime=0, compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, data, mode in (("kubectl-som", program, 0o755), ("LICENSE", licence, 0o644)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _krew(sums: dict[str, str]) -> str:
    """The manifest of the plugin index; whoever publishes puts the place of the files into it."""
    platforms = "".join(
        f"""\
  - selector: {{matchLabels: {{os: {platform.split("-")[0]}, arch: {platform.split("-")[1]}}}}}
    uri: ${{SOM_RELEASE_URL}}/kubectl-som-{platform}.tar.gz
    sha256: {digest}
    bin: kubectl-som
"""
        for platform, digest in sums.items()
    )
    return f"""\
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: som
spec:
  version: v{VERSION}
  shortDescription: See, plan and explain single-owner memory
  description: |
    Shows who has how much som memory on which node, says what a change of a pool would do before
    it is applied, and explains in sentences why a pool, a node or a pod is not Ready.
  caveats: |
    Needs Python 3.11 or newer. For completion, link kubectl-som as kubectl_complete-som.
  platforms:
{platforms}"""


def main() -> int:
    """Build into a folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--wheels", type=pathlib.Path, default=ROOT / "build/wheels")
    parser.add_argument("--platform", action="append", choices=[*PLATFORMS])
    chosen = parser.parse_args()
    platforms = tuple(chosen.platform or PLATFORMS)
    for path in build(chosen.folder, chosen.wheels, platforms=platforms):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
