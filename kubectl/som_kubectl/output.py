"""How a command's answer is printed: as a table for people, as JSON or YAML for programs."""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from som_kubectl import table


def rows(found: Sequence[Any], shown: table.Table, form: str, *, nothing: str) -> None:
    """Print rows (frozen dataclasses) as `form` says; `nothing` is said where there are none."""
    if form:
        document({"items": [plain(row) for row in found]}, form)
    elif found:
        print("\n".join(table.lines(shown, wide=table.width())))
    else:
        note(nothing)


def document(value: dict[str, Any], form: str) -> None:
    """Print one JSON or YAML document."""
    if form == "yaml":
        import yaml

        sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    else:
        print(json.dumps(value, indent=2))


def plain(value: Any) -> Any:
    """A dataclass as JSON has it, its fields in camelCase."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {_camel(name): plain(inner) for name, inner in fields}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    return value


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    print(text, file=sys.stderr)


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)
