"""Archives that are the same bytes whenever and by whomever they are packed."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path


def pack(folder: Path, target: Path, *, under: str = "", epoch: int) -> None:
    """Pack all files of a folder: sorted, of root, dated `epoch`; gzipped where `target` says so.

    `under` is the folder in the archive.
    """
    with target.open("wb") as file:
        if target.suffix not in (".gz", ".tgz"):
            _tar(folder, file, under, epoch)
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=epoch) as packed:
            _tar(folder, packed, under, epoch)


def _tar(folder: Path, file: object, under: str, epoch: int) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:  # type: ignore[call-overload]
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(Path(under) / path.relative_to(folder))
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.size = epoch, path.stat().st_size
            entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)
