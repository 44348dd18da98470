"""What is wrong with a manifest: one fault per field, with its path, value and cure."""

import dataclasses
from collections.abc import Sequence

import pydantic


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing to mend: `path` as in YAML (`spec.source.hugeTLB.pageSize`), and the cure."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidManifest(ValueError):
    """The manifest cannot be used; `faults` names every field at fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def from_pydantic(error: pydantic.ValidationError) -> InvalidManifest:
    """Translate pydantic's errors into faults that name field, value and cure."""
    return InvalidManifest([_fault(**detail) for detail in error.errors(include_url=False)])


def _fault(**detail: object) -> Fault:
    location = detail["loc"]
    assert isinstance(location, tuple)
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    kind, value = detail["type"], _shown(detail.get("input"))
    message = str(detail["msg"]).removeprefix("Value error, ")
    match kind:
        case "extra_forbidden":
            message = "unknown field; remove it or check its spelling"
        case "missing":
            message = "is required"
        case "literal_error":
            context = detail.get("ctx")
            expected = context["expected"] if isinstance(context, dict) else "another value"
            message = f"{value} is not possible here; use {expected}"
        case "value_error":
            pass
        case "string_pattern_mismatch":
            message = f"{value} is not a name; use lower-case letters, digits, '-' and '.'"
        case "string_too_long" | "too_long":
            context = detail.get("ctx")
            most = context["max_length"] if isinstance(context, dict) else "fewer"
            message = f"{value} is too long; use at most {most}"
        case "model_type" | "dict_type":
            message = f"{value} is not possible here; write fields below it"
        case "tuple_type":
            message = f"{value} is not a list; begin each entry with '- '"
        case "string_type":
            message = f"{value} is not text; put it in quotes"
        case "bool_type":
            message = f"{value} is not possible here; use true or false"
        case _:
            message = f"{value}: {message[:1].lower()}{message[1:]}"
    return Fault(path=path.lstrip("."), message=message)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
