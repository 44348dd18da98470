"""What a release is made of, and that none is made of what is no release.

That it is the same bytes each time is tried in `tests/cluster/test_release.py`.
"""

import pathlib
import shutil
import subprocess
import tarfile

import pytest
import yaml

import som_api
from release import __main__ as release
from release import parts, sbom, tars, tree

ROOT = pathlib.Path(__file__).parents[3]
DIGEST = f"sha256:{'0' * 64}"
DIGESTS = {"agent": DIGEST, "operator": DIGEST, "driver": DIGEST}


def git(folder: pathlib.Path, *words: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    """A project whose HEAD is version 1.2.0."""
    files = {
        "api/som_api/__init__.py": 'VERSION: Final = "1.2.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.0\n\n- New.\n\n## 1.1.0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=1.2.0")
    return tmp_path


def test_a_clean_commit_with_its_entry_and_its_tag_is_a_release(repository: pathlib.Path) -> None:
    assert list(tree.refusals(repository, "1.2.0")) == []
    git(repository, "tag", "v1.2.0")
    assert list(tree.refusals(repository, "1.2.0")) == []


def test_a_file_that_no_commit_has_is_named(repository: pathlib.Path) -> None:
    (repository / "new.py").touch()
    [reason] = tree.refusals(repository, "1.2.0")
    assert "new.py" in reason
    assert "commit or remove" in reason


@pytest.mark.parametrize("newest", ["Unreleased", "1.1.0"])
def test_what_is_new_has_the_version_in_the_changelog(
    repository: pathlib.Path, newest: str
) -> None:
    (repository / "CHANGELOG.md").write_text(f"# Changelog\n\n## {newest}\n\n## 1.0.0\n")
    git(repository, "commit", "--quiet", "--all", "--message=more")
    [reason] = tree.refusals(repository, "1.2.0")
    assert newest in reason
    assert "`## 1.2.0`" in reason


def test_a_tag_of_another_version_is_refused(repository: pathlib.Path) -> None:
    git(repository, "tag", "v1.3.0")
    [reason] = tree.refusals(repository, "1.2.0")
    assert "v1.3.0" in reason
    assert "move the tag" in reason


def test_a_version_is_released_once(repository: pathlib.Path) -> None:
    git(repository, "tag", "v1.2.0")
    git(repository, "commit", "--quiet", "--allow-empty", "--message=more")
    [reason] = tree.refusals(repository, "1.2.0")
    assert "raise som_api.VERSION" in reason


@pytest.fixture
def source() -> tree.Tree:
    """The checkout as if it were a commit."""
    return tree.Tree(ROOT, som_api.VERSION, commit="c", epoch=1_800_000_000)


@pytest.fixture
def dist(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "dist").mkdir()
    return tmp_path / "dist"


def test_checksums_are_read_by_sha256sum(source: tree.Tree, dist: pathlib.Path) -> None:
    parts.module(source, dist)
    release.checksums(dist)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=dist, capture_output=True, text=True, check=True)
    assert checked.stdout == f"som-dkms-{source.version}.tar.gz: OK\n"


def test_the_chart_names_the_images_where_they_will_be(
    source: tree.Tree, dist: pathlib.Path
) -> None:
    packed = parts.chart(source, dist, registry="registry.test/som", digests=DIGESTS)
    with tarfile.open(packed) as tar:
        file = tar.extractfile("som/values.yaml")
        assert file is not None
        text = file.read().decode()
        assert "som/templates/_helpers.tpl" in tar.getnames()
    values = yaml.safe_load(text)
    for name in DIGESTS:
        image = values["images"][name]
        assert (image["repository"], image["digest"]) == (f"registry.test/som/som-{name}", DIGEST)
    ours = (ROOT / "charts/som/values.yaml").read_text().splitlines()
    changed = [line for line in text.splitlines() if line not in ours]
    assert len(changed) == 2 * len(DIGESTS)


def test_without_a_registry_the_chart_is_that_of_the_commit(
    source: tree.Tree, dist: pathlib.Path
) -> None:
    packed = parts.chart(source, dist, registry="", digests=DIGESTS)
    with tarfile.open(packed) as tar:
        file = tar.extractfile("som/values.yaml")
        assert file is not None
        assert file.read() == (ROOT / "charts/som/values.yaml").read_bytes()


def test_the_module_is_laid_out_as_dkms_wants_it(source: tree.Tree, dist: pathlib.Path) -> None:
    packed = parts.module(source, dist)
    with tarfile.open(packed) as tar:
        names = tar.getnames()
        [folder] = {name.split("/")[0] for name in names}
        file = tar.extractfile(f"{folder}/dkms.conf")
        assert file is not None
        config = file.read().decode()
        owners = {(entry.uid, entry.gid, entry.uname) for entry in tar.getmembers()}
    version = folder.removeprefix("som-")
    assert f'PACKAGE_VERSION="{version}"' in config
    assert {f"{folder}/Kbuild", f"{folder}/uapi/som.h", f"{folder}/LICENSE"} <= set(names)
    assert owners == {(0, 0, "")}


STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12
Description: a library
 Version: of a text

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


def test_packages_of_an_image_are_those_that_are_installed() -> None:
    assert list(sbom.debian(STATUS)) == [sbom.Package("deb", "libc6", "2.41-12", "amd64")]


def test_packages_are_read_from_the_layers_of_an_archive(tmp_path: pathlib.Path) -> None:
    oci = tmp_path / "oci"
    (oci / "blobs/sha256").mkdir(parents=True)
    layer = tmp_path / "layer"
    for name in ("var/lib/dpkg/status", "opt/som/lib/Jinja2-3.1.6.dist-info/METADATA"):
        (layer / name).parent.mkdir(parents=True)
        (layer / name).write_text(STATUS)
    lock = layer / "opt/som/libsom/Cargo.lock"
    lock.parent.mkdir()
    shutil.copy(ROOT / "libsom/mimalloc/Cargo.lock", lock)
    tars.pack(layer, oci / "blobs/sha256/layer.tar.gz", epoch=0)
    (oci / "blobs/sha256/layer.tar.gz").rename(oci / "blobs/sha256/1")
    (oci / "blobs/sha256/2").write_text('{"layers": [{"digest": "sha256:1"}]}')
    (oci / "index.json").write_text('{"manifests": [{"digest": "sha256:2"}]}')
    tars.pack(oci, tmp_path / "image.oci.tar", epoch=0)
    found = sbom.packages(tmp_path / "image.oci.tar")
    assert [(package.kind, package.name) for package in found] == [
        ("cargo", "libmimalloc-sys"),
        ("deb", "libc6"),
        ("pypi", "jinja2"),
    ]
