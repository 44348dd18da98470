"""`make release`: the whole of a release in dist/, from the commit that is checked out."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from release import images, parts, sbom, tree


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--registry", default="", help="where the chart's images will be")
    registry = parser.parse_args().registry
    repository = Path(__file__).parents[1]
    version = tree.version_of(repository)
    try:
        if reasons := list(tree.refusals(repository, version)):
            raise tree.ReleaseError("\n".join(reasons))
        make(repository, repository / "dist", registry=registry)
    except tree.ReleaseError as error:
        print(f"make release: {error}", file=sys.stderr)
        return 1
    return 0


def make(repository: Path, dist: Path, *, registry: str) -> None:
    """Write the release to `dist`, which has nothing else then."""
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = tree.export(repository, Path(scratch))
        built = [images.build(source, component, dist) for component in images.COMPONENTS]
        sbom.write(source, built, dist)
        parts.module(source, dist)
        parts.python(source, dist)
        parts.kubectl_som(source, dist, wheels=repository / "build/wheels")
        digests = {image.component: image.digest for image in built}
        parts.chart(source, dist, registry=registry, digests=digests)
    checksums(dist)


def checksums(dist: Path) -> None:
    """SHA256SUMS of all files, as `sha256sum --check` reads it."""
    lines = []
    for path in sorted(dist.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (dist / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
