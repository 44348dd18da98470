"""What a driver pod answers, in its termination message. Pure.

Both sides import it: the operator, and the program in the pod, which has no other package.
"""

import dataclasses
import json
from typing import Final, Self

LOADED: Final = "Loaded"
LOADED_BY_OTHERS: Final = "LoadedByOthers"
"""The wanted module was there already."""
UNLOADED: Final = "Unloaded"

COMPILER_MISSING: Final = "CompilerMissing"
BUILD_FAILED: Final = "BuildFailed"
IN_USE: Final = "InUse"
LOAD_FAILED: Final = "LoadFailed"
NO_HEADERS: Final = "NoHeaders"
SIGNATURE_REQUIRED: Final = "SignatureRequired"
SIGNING_FAILED: Final = "SigningFailed"
UNKNOWN_SYMBOL: Final = "UnknownSymbol"
VERSION_IN_USE: Final = "VersionInUse"

LONGEST_MESSAGE: Final = 800
"""Less than a condition keeps, and than kubelet of a termination message, 4096 bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What happened, and the module as it is on the node now ("" where there is none)."""

    reason: str
    message: str = ""
    version: str = ""
    src_version: str = ""
    kernel: str = ""
    boot_id: str = ""

    def to_json(self) -> str:
        """One line of ASCII, short enough for kubelet."""
        message = self.message[:LONGEST_MESSAGE].encode("ascii", "replace").decode()
        shown = dataclasses.replace(self, message=message)
        return json.dumps(dataclasses.asdict(shown))

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """The answer; None where `text` is none, because the program did not come to its end."""
        try:
            fields = json.loads(text)
            return cls(**{field.name: str(fields[field.name]) for field in dataclasses.fields(cls)})
        except (ValueError, TypeError, KeyError):
            return None
