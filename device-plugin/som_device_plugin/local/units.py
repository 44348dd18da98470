"""What a program asks for. Imports nothing slow: `som local run` starts in milliseconds."""

import dataclasses
import re
from typing import Final, Literal, Self

from som_device_plugin.local import Wrong

UNIT_BYTES: Final[dict[Literal["2Mi", "1Gi"], int]] = {"2Mi": 2 << 20, "1Gi": 1 << 30}
_RESOURCES: Final = {f"som.io/{unit}": unit for unit in UNIT_BYTES}
_SUFFIXES: Final = {
    **{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40},
    **{"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A number of units."""

    unit: Literal["2Mi", "1Gi"]
    count: int

    @classmethod
    def parse(cls, resource: str, count: str) -> Self:
        """The request of `som.io/2Mi` and `64`; raises Wrong, with what to write."""
        if resource not in _RESOURCES:
            raise Wrong(f"{resource!r} is not a resource of som; request {' or '.join(_RESOURCES)}")
        unit = _RESOURCES[resource]
        if re.fullmatch("[1-9][0-9]{0,9}", count):
            return cls(unit=unit, count=int(count))
        size = re.fullmatch("([1-9][0-9]{0,9})([KMGT]i|[kMGT])", count)
        if not size:
            raise Wrong(f"{resource}={count}: write a whole number of units, such as 64")
        units, rest = divmod(int(size[1]) * _SUFFIXES[size[2]], UNIT_BYTES[unit])
        raise Wrong(
            f"{resource} counts units of {unit}, not bytes: for {count} write {resource}="
            f"{units + bool(rest)}"
        )

    @property
    def resource(self) -> str:
        return f"som.io/{self.unit}"

    @property
    def size_bytes(self) -> int:
        return self.count * UNIT_BYTES[self.unit]


def parse(texts: list[str]) -> Request:
    """The request of the command line's `--request`; raises Wrong."""
    if len(texts) > 1:
        raise Wrong(f"--request {' and '.join(texts)}: a program has one; write their sum")
    resource, equals, count = texts[0].partition("=")
    if not equals:
        raise Wrong(f"--request {resource}: write how many, such as som.io/2Mi=64")
    return Request.parse(resource, count)
