"""What the commands say: sentences for people, or one JSON object per line for scripts."""

import dataclasses
import json
import sys
from typing import Any, Final

OK: Final = 0
FAILED: Final = 1
WRONG: Final = 2
PARTLY: Final = 3
INTERRUPTED: Final = 128
"""Plus the number of the signal."""


@dataclasses.dataclass(frozen=True)
class Output:
    """One command's output. JSON goes to stdout, all of it; of `run`, whose stdout is the
    program's, to stderr.
    """

    as_json: bool = False
    is_run: bool = False

    def result(self, event: str, text: str, **fields: Any) -> None:
        """What the command was asked for: `text` on stdout, or an object."""
        if self.as_json:
            self._object(event=event, **fields)
        elif text:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """Something on the way, such as what is waited for."""
        if self.as_json:
            self._object(event="note", message=text)
        else:
            print(f"som: {text}", file=sys.stderr, flush=True)

    def error(self, text: str, exit_code: int) -> int:
        """Why the command ends with `exit_code`, which it answers."""
        if self.as_json:
            self._object(event="error", message=text, exit_code=exit_code)
        else:
            print(f"som: {text}", file=sys.stderr, flush=True)
        return exit_code

    def event(self, event: str, **fields: Any) -> None:
        """A step, for scripts alone."""
        if self.as_json:
            self._object(event=event, **fields)

    def _object(self, **fields: Any) -> None:
        file = sys.stderr if self.is_run else sys.stdout
        print(json.dumps(fields), file=file, flush=True)
