"""What README and tutorial say to paste, pasted; on the cluster that the last scene has emptied.

There is no registry here, so `docker build` is a fake: the images of this tree, which buildah
has built from the same Dockerfile, are on the node under the tags that the pages name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.harness import images
from cluster.harness.cluster import Cluster
from cluster.scenes import release

REGISTRY = "registry.example.com/you"
DOCKER = f"""#!/bin/sh
case "$*" in
    "build --target agent --tag {REGISTRY}/som-agent:0.1.0 --push .") ;;
    "build --target operator --tag {REGISTRY}/som-operator:0.1.0 --push .") ;;
    *) echo "the fake docker was asked for: $*" >&2; exit 1 ;;
esac
"""


def commands(page: str, *, heading: str = "") -> list[tuple[str, str]]:
    """The shell blocks of a page, or of one section: (script, the output shown right after it)."""
    text = (images.PROJECT / page).read_text()
    if heading:
        text = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```\n(?:\n```\n(.*?)```)?", text, re.S)
    assert found, page
    return found


def words(output: str) -> list[list[str]]:
    """Lines of words, ages and the widths of columns aside."""
    return [re.sub(r"\b\d+s\b", "AGE", line).split() for line in output.splitlines()]


def remove_namespace(cluster: Cluster) -> None:
    words = ["delete", "namespace", release.NAMESPACE, "--ignore-not-found", "--timeout=90s"]
    cluster.kubectl(*words)


@pytest.fixture(scope="module")
def new_user(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without som, its images where the pages have them pulled from."""
    tags = {target: f"{REGISTRY}/som-{target}:0.1.0" for target in release.TARGETS}
    for archive, target in zip(release.build(), release.TARGETS, strict=True):
        cluster.load(archive)
        cluster.load(images.retag(f"localhost/som-{target}:test", to=tags[target]))
    python = "docker.io/library/python:3.13-slim"
    cluster.load(images.retag("localhost/som-agent:test", to=python))
    # What the scenes before this one have left, if they ran.
    cluster.kubectl("delete", "sompools", "--all", "--timeout=60s", check=False)
    remove_namespace(cluster)
    yield cluster
    remove_namespace(cluster)


def paste(cluster: Cluster, blocks: list[tuple[str, str]], folder: Path) -> None:
    """Run the blocks one after the other in one shell, as a person would."""
    docker = folder / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    marks = [f"{script}echo '=== end of block {n}'\n" for n, (script, _) in enumerate(blocks)]
    script = f"set -eu\nPATH={folder}:$PATH\ncd {images.PROJECT}\n" + "".join(marks)
    output = cluster.namespaces.run(["bash", "-s"], stdin=script).stdout
    for said, (script, shown) in zip(output.split("=== end of block"), blocks, strict=False):
        expected = words(shown)
        assert words(said)[-len(expected) :] == expected or not shown, script


def test_the_readme_installs_a_cluster(new_user: Cluster, tmp_path: Path) -> None:
    paste(new_user, commands("README.md", heading="In a cluster"), tmp_path)
    assert "examples" in new_user.kubectl("get", "sompools")
    new_user.kubectl("delete", "sompool", "examples", "--timeout=60s")
    new_user.helm("uninstall", "som", "--namespace=som-system", "--wait", "--timeout=120s")
    remove_namespace(new_user)
    assert new_user.huge_pages_added() == 0


def test_the_tutorial_works_as_pasted(new_user: Cluster, tmp_path: Path) -> None:
    paste(new_user, commands("docs/tutorial/first-pod.md"), tmp_path)
    assert new_user.huge_pages_added() == 0
