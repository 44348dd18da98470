"""The commit that is released, and what keeps it from being one."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path


class ReleaseError(Exception):
    """A release cannot be made; says why, and what to do."""


@dataclass(frozen=True)
class Tree:
    """The files of a commit in a folder of their own, without what else lies in the work tree."""

    folder: Path
    version: str
    commit: str
    epoch: int
    """When the commit was made, in seconds since 1970: the date of everything in the release."""


def refusals(repository: Path, version: str) -> Iterator[str]:
    """Why HEAD is no release of `version`, each with the cure."""
    if dirty := _git(repository, "status", "--porcelain"):
        yield f"the work tree has changes that no commit has; commit or remove them:\n{dirty}"
    changelog = (repository / "CHANGELOG.md").read_text()
    newest = next(iter(re.findall(r"^## (.*)$", changelog, re.M)), "nothing")
    if newest.split()[:1] != [version]:
        yield (
            f"the newest entry of CHANGELOG.md is of {newest}, and som_api.VERSION is {version}; "
            f"set the version of the release, and give what is new under `## {version}`"
        )
    tag, here = f"v{version}", _git(repository, "tag", "--points-at=HEAD", "v*").split()
    if others := [name for name in here if name != tag]:
        yield (
            f"HEAD has the tag {' '.join(others)}, and som_api.VERSION says {tag}; "
            "move the tag to the commit whose version it names"
        )
    if not here and _git(repository, "tag", "--list", tag):
        yield f"{tag} is another commit; raise som_api.VERSION, or check out {tag}"


def version_of(repository: Path) -> str:
    """som_api.VERSION of a tree, which need not be the one that is imported."""
    text = (repository / "api/som_api/__init__.py").read_text()
    found = re.search(r'^VERSION\b.* = "(.*)"$', text, re.M)
    if found is None:
        raise ReleaseError('api/som_api/__init__.py has no line `VERSION: Final = "..."`')
    return found[1]


def export(repository: Path, into: Path) -> Tree:
    """Write HEAD's files to a folder."""
    archive = _run(repository, "archive", "--format=tar", "HEAD")
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(into, filter="data")
    commit, epoch = _git(repository, "log", "-1", "--format=%H %ct").split()
    return Tree(into, version_of(into), commit, int(epoch))


def _git(repository: Path, *words: str) -> str:
    return _run(repository, *words).decode().strip()


def _run(repository: Path, *words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=repository, capture_output=True, check=False)
    if done.returncode != 0:
        answer = done.stderr.decode(errors="replace").strip()
        raise ReleaseError(f"git {' '.join(words)} in {repository}: {answer}")
    return done.stdout
