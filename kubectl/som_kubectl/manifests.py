"""Reads the SomPools of files, and says everything that is wrong with them at once."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from som_api import SomError, v1alpha1

_LARGEST_BYTES: Final = 4 << 20
_SUFFIXES: Final = (".yaml", ".yml", ".json")


class Unreadable(SomError):
    """A file that cannot be read at all."""


@dataclasses.dataclass(frozen=True)
class Found:
    """One SomPool of a file, or what is wrong with it; `place` is file and number of document."""

    place: str
    name: str
    manifest: dict[str, Any]
    faults: Sequence[v1alpha1.Fault] = ()


@dataclasses.dataclass(frozen=True)
class Files:
    """The SomPools of all files, and what else was there: kinds that are not som's."""

    pools: Sequence[Found]
    others: Sequence[str]

    @property
    def faults(self) -> list[str]:
        """Each with its place."""
        return [f"{pool.place}: {fault}" for pool in self.pools for fault in pool.faults]


def read(names: Sequence[str]) -> Files:
    """The SomPools of files, folders, and `-`, standard input. Raises Unreadable."""
    pools, others = list[Found](), list[str]()
    for name in names:
        for file, content in _contents(name):
            for place, manifest in _documents(file, content):
                if _is_another_kind(manifest):
                    others.append(f"{place}: {manifest['kind']}")
                else:
                    pools.append(_found(place, manifest))
    pools = _once_each(pools)
    if not pools:
        where = ", ".join(names)
        raise Unreadable(f"{where}: no SomPool there; write one, see examples/sompool.yaml")
    return Files(pools, others)


def _contents(name: str) -> Iterator[tuple[str, bytes]]:
    if name == "-":
        yield (
            "standard input",
            _bounded("standard input", sys.stdin.buffer.read(_LARGEST_BYTES + 1)),
        )
        return
    path = Path(name)
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
            if not files:
                raise Unreadable(f"{name}: no file of {', '.join(_SUFFIXES)} is in this folder")
        else:
            files = [path]
        for file in files:
            with file.open("rb") as opened:
                yield str(file), _bounded(str(file), opened.read(_LARGEST_BYTES + 1))
    except OSError as error:
        raise Unreadable(f"{name}: cannot be read: {error.strerror}") from error


def _bounded(name: str, content: bytes) -> bytes:
    if len(content) > _LARGEST_BYTES:
        raise Unreadable(f"{name}: is larger than 4 MiB; one SomPool is a few lines of YAML")
    return content


def _documents(file: str, content: bytes) -> Iterator[tuple[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(content.decode()))
    except UnicodeDecodeError:
        raise Unreadable(f"{file}: is not text; write SomPools in YAML") from None
    except RecursionError:
        raise Unreadable(f"{file}: is nested too deep; write SomPools in YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise Unreadable(f"{file}: {place}{problem}; write SomPools in YAML") from None
    flat = list[Any]()
    for document in filter(None, documents):
        is_list = isinstance(document, dict) and document.get("kind") in ("List", "SomPoolList")
        inner = document.get("items") if is_list else None
        flat += inner if isinstance(inner, list) else [document]
    for number, document in enumerate(flat, start=1):
        yield (f"{file}[{number}]" if len(flat) > 1 else file), document


def _is_another_kind(manifest: object) -> bool:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("kind"), str):
        return False
    version = str(manifest.get("apiVersion", ""))
    return manifest["kind"] != "SomPool" and not version.startswith(f"{v1alpha1.GROUP}/")


def _found(place: str, manifest: Any) -> Found:
    try:
        pool = v1alpha1.parse_sompool(manifest)
    except v1alpha1.InvalidManifest as invalid:
        metadata = manifest.get("metadata") if isinstance(manifest, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return Found(place, str(name or ""), {}, invalid.faults)
    return Found(place, pool.metadata.name, manifest)


def _once_each(pools: Sequence[Found]) -> list[Found]:
    """Two documents of one name are a fault of the second: which of them would stand?"""
    first = dict[str, str]()
    found = list[Found]()
    for pool in pools:
        if pool.name in first:
            message = f"{pool.name!r} is in {first[pool.name]} already; leave one of them out"
            fault = v1alpha1.Fault("metadata.name", message)
            pool = dataclasses.replace(pool, faults=(*pool.faults, fault))
        elif pool.name:
            first[pool.name] = pool.place
        found.append(pool)
    return found
