"""The bill of materials, in CycloneDX: what the images have in them, read from their layers.

Not from the locks and Dockerfiles that they were built from: those say what should be there.
"""

from __future__ import annotations

import json
import re
import tarfile
import tomllib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from release.images import Image
from release.tree import ReleaseError, Tree

_STATUS = "var/lib/dpkg/status"
_CARGO = "opt/som/libsom/Cargo.lock"
_PYTHON = re.compile(r"(?:.*/)?([^/]+)-([^/-]+)\.dist-info/METADATA")


@dataclass(frozen=True, order=True)
class Package:
    """What an image has: `kind` is that of a package URL, pypi, deb or cargo."""

    kind: str
    name: str
    version: str
    architecture: str = ""


def packages(archive: Path) -> list[Package]:
    """Debian's and Python's packages of an image, and mimalloc, which is a part of libsom.

    Of dpkg's databases the last layer's counts.
    """
    status, others = b"", set[Package]()
    with tarfile.open(archive) as oci:
        manifest = json.load(_blob(oci, json.load(_content(oci, "index.json"))["manifests"][0]))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=_blob(oci, layer), mode="r|*") as files:
                for entry in files:
                    if entry.name.removeprefix("./") == _STATUS and entry.isfile():
                        status = _content(files, entry).read()
                    elif entry.name.removeprefix("./") == _CARGO:
                        locked = tomllib.loads(_content(files, entry).read().decode())["package"]
                        [mimalloc] = [e for e in locked if e["name"] == "libmimalloc-sys"]
                        others.add(Package("cargo", mimalloc["name"], mimalloc["version"]))
                    elif found := _PYTHON.fullmatch(entry.name):
                        others.add(Package("pypi", found[1].lower().replace("_", "-"), found[2]))
    if not status:
        raise ReleaseError(f"{archive} has no {_STATUS}: no image of Debian")
    return sorted({*debian(status.decode()), *others})


def debian(status: str) -> Iterable[Package]:
    """The installed packages of dpkg's database (deb822, see dpkg(1))."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.M))
        if fields.get("Status", "").endswith(" installed"):
            yield Package("deb", fields["Package"], fields["Version"], fields["Architecture"])


def _blob(oci: tarfile.TarFile, descriptor: dict[str, str]) -> IO[bytes]:
    return _content(oci, "blobs/" + descriptor["digest"].replace(":", "/"))


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo | str) -> IO[bytes]:
    file = tar.extractfile(entry)
    if file is None:
        raise ReleaseError(f"{tar.name!r} has {entry}, which is no file")
    return file


def write(tree: Tree, built: Sequence[Image], dist: Path) -> Path:
    """One document of all images; raises ReleaseError if CycloneDX' schema does not take it."""
    # Installed by `make release` alone, from release/requirements.lock.
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL

    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"som:{tree.commit}"))
    bom.metadata.timestamp = datetime.fromtimestamp(tree.epoch, UTC)
    bom.metadata.component = Component(
        name="som", version=tree.version, type=ComponentType.APPLICATION, bom_ref="som"
    )
    for image in built:
        held = []
        for package in packages(image.archive):
            debians = package.kind == "deb"
            url = PackageURL(
                package.kind,
                "debian" if debians else None,
                package.name,
                package.version,
                {"arch": package.architecture} if debians else None,
            )
            reference = f"{image.component}/{url.to_string()}"
            held.append(
                Component(name=package.name, version=package.version, purl=url, bom_ref=reference)
            )
        digest = HashType(alg=HashAlgorithm.SHA_256, content=image.digest.removeprefix("sha256:"))
        bom.components.add(
            Component(
                name=f"som-{image.component}",
                version=tree.version,
                type=ComponentType.CONTAINER,
                bom_ref=f"som-{image.component}",
                hashes=[digest],
                components=held,
            )
        )
    bom.register_dependency(bom.metadata.component, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ReleaseError(f"the bill of materials is no CycloneDX: {wrong}")
    target = dist / f"som-{tree.version}.cdx.json"
    target.write_text(text)
    return target
