"""Byte quantities as Kubernetes writes them: `64Gi` in YAML, `int` bytes in code.

The grammar is Kubernetes' own (k8s.io/apimachinery resource.Quantity) without signs and
fractions, which CEL in a CRD cannot compute exactly.

The API server takes about 1 EB at most, less than is read here: whatever it holds can be read and
written back.
"""

import functools
import re
from typing import Annotated, Any, Final

import pydantic
import pydantic_core

MOST_BYTES: Final = 10**18 - 10**18 % 2**30
"""The largest multiple of every unit that the API server takes."""

STRICT: Final = "strict"
"""Validation context of what a person wrote: there, what is out of range is refused."""

_MAX_BYTES: Final = 2**63 - 1
_MAX_LENGTH: Final = 32
_PATTERN: Final = r"^[0-9]+([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,18})?$"
_LARGEST_EXPONENT: Final = 19
"""Beyond it is out of range, whatever is before it."""
_BOUNDED_PATTERN: Final = (
    r"^([0-9]{1,18}|[0-9]{1,15}(k|Ki)|[0-9]{1,12}Mi?|[0-9]{1,9}Gi?|[0-9]{1,6}Ti?|[0-9]{1,3}Pi?"
    r"|[0-9]{1,9}[eE][0-9])$"
)
_BINARY_SUFFIXES: Final = (
    ("Pi", 2**50),
    ("Ti", 2**40),
    ("Gi", 2**30),
    ("Mi", 2**20),
    ("Ki", 2**10),
)


def parse_bytes(value: object) -> int:
    """Bytes of a quantity such as `64Gi`, or of a plain integer.

    Raises:
        ValueError: not a quantity, no whole number, negative, or beyond 63 bits.
    """
    amount = _amount(value)
    if amount > _MAX_BYTES:
        raise ValueError(f"{value!r} is out of range; use a positive quantity, such as 64Gi")
    return amount


def read_bytes(value: object) -> int:
    """As `parse_bytes`, but `MOST_BYTES` for what is out of range: for what the API server has.

    Whoever may write an object there may write 100E. That is too much, but no reason not to read
    the rest.

    Raises:
        ValueError: not a quantity, no whole number, or negative.
    """
    amount = _amount(value)
    return amount if amount <= _MAX_BYTES else MOST_BYTES


def _amount(value: object) -> int:
    amount: int | None = None
    if isinstance(value, str) and len(value) <= _MAX_LENGTH:
        amount = _parsed(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    if amount is None:
        raise ValueError(
            f"{value!r} is not a quantity; write a whole number with a suffix, such as 64Gi"
        )
    if amount < 0:
        raise ValueError(f"{value!r} is out of range; use a positive quantity, such as 64Gi")
    return amount


# The nodes of a fleet report the same few amounts again and again.
@functools.lru_cache(maxsize=4096)
def _parsed(value: str) -> int | None:
    # Python's numbers allow more than Kubernetes' (1_000, +5, NaN).
    if not re.fullmatch(_PATTERN, value):
        return None
    number = value.rstrip("kKMGTPEi")
    suffix = value[len(number) :]
    if suffix:
        base, steps = (1024 if suffix.endswith("i") else 1000), "KMGTPE".index(suffix[0].upper())
        factor: int = base ** (steps + 1)
    else:
        number, _, exponent = number.lower().partition("e")
        factor = 10 ** min(int(exponent or 0), _LARGEST_EXPONENT)
    return int(number) * factor


def format_bytes(value_bytes: int) -> str:
    """The quantity of `value_bytes`, exact, in the largest binary suffix: 68719476736 -> `64Gi`."""
    for suffix, factor in _BINARY_SUFFIXES:
        if value_bytes and value_bytes % factor == 0:
            return f"{value_bytes // factor}{suffix}"
    return str(value_bytes)


def _validate(value: object, info: pydantic.ValidationInfo) -> int:
    return parse_bytes(value) if info.context == STRICT else read_bytes(value)


class _QuantitySchema:
    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: pydantic_core.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "maximum": MOST_BYTES,
            "maxLength": _MAX_LENGTH,
            "pattern": _BOUNDED_PATTERN,
        }


Bytes = Annotated[
    int,
    pydantic.BeforeValidator(_validate),
    pydantic.PlainSerializer(format_bytes, return_type=str),
    _QuantitySchema,
]
"""A field of bytes: a quantity in YAML and JSON, an `int` in code, 63 bits at most."""
