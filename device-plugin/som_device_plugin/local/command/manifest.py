"""Reads the SomPool that `som local up` is given."""

import sys
from pathlib import Path
from typing import Final

import yaml

from som_api import v1alpha1

_LARGEST_BYTES: Final = 1 << 20


def read(name: str) -> v1alpha1.SomPool:
    """The SomPool of the file `name`, or of standard input for `-`.

    Raises:
        v1alpha1.InvalidManifest: with one fault per line.
    """
    return parse(_content(name))


def parse(content: bytes) -> v1alpha1.SomPool:
    """The one SomPool of a YAML text; raises InvalidManifest."""
    if len(content) > _LARGEST_BYTES:
        raise _fault("is larger than 1 MiB; one SomPool is a few lines of YAML")
    try:
        documents = [document for document in yaml.safe_load_all(content.decode()) if document]
    except UnicodeDecodeError:
        raise _fault("is not text; write a SomPool in YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise _fault(f"{place}{problem}; write a SomPool in YAML") from None
    if not documents:
        raise _fault("is empty; write a SomPool in YAML")
    if len(documents) > 1:
        raise _fault(f"has {len(documents)} documents; one machine has one SomPool")
    return v1alpha1.parse_sompool(documents[0])


def _content(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(_LARGEST_BYTES + 1)
        with Path(name).open("rb") as file:
            return file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise _fault(f"cannot be read: {error.strerror}") from error


def _fault(message: str) -> v1alpha1.InvalidManifest:
    return v1alpha1.InvalidManifest([v1alpha1.Fault("", message)])
