"""Structured logs on standard error: one line per record, `key=value` after the message."""

import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValues(logging.Formatter):
    """Appends what `extra=` gave, as `key=value` sorted by key, to the first line."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        extras = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        pairs = "".join(f" {key}={value!r}" for key, value in sorted(extras.items()))
        head, newline, rest = line.partition("\n")
        return f"{head}{pairs}{newline}{rest}"


def configure(*, level: str) -> None:
    """Send logs of `level` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValues("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
