"""Structured logs on standard error: one line per record, `key=value` after the message."""

import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValues(logging.Formatter):
    """Appends what `extra=` gave, as `key=value` sorted by key; a traceback follows."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        extras = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        pairs = "".join(f" {key}={value!r}" for key, value in sorted(extras.items()))
        return f"{_on_one_line(super().formatMessage(record))}{pairs}"


def _on_one_line(text: str) -> str:
    """`text` with escapes for all that moves a terminal: strangers name things as they like."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def configure(*, level: str) -> None:
    """Send logs of `level` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValues("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
