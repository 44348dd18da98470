"""Structured logs on standard error: one record a line, for people or for programs.

As text, `key=value` follows the message, and a traceback the line. As JSON, a record is one object
on one line whatever is in it: `time`, `level`, `logger` and `message`, what `extra=` gave by its
own keys, and a traceback in `exception`.
"""

import argparse
import datetime
import json
import logging
import math
import sys
from collections.abc import Iterable
from typing import Any, Final, NoReturn

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValues(logging.Formatter):
    """Appends what `extra=` gave, as `key=value` sorted by key; a traceback follows."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={value!r}" for key, value in sorted(_extras(record).items()))
        return f"{_on_one_line(super().formatMessage(record))}{pairs}"


class JsonLines(logging.Formatter):
    """One JSON object a record, in ASCII: no name that a stranger chose ends a line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(
            {**{key: _finite(value) for key, value in _extras(record).items()}, **fields},
            default=str,
            skipkeys=True,
        )


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _finite(value: object) -> object:
    """JSON knows no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _on_one_line(text: str) -> str:
    """`text` with escapes for all that moves a terminal: strangers name things as they like."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--log-level` and `--log-format`, for `configure`."""
    levels = ["debug", "info", "warning", "error"]
    parser.add_argument("--log-level", default="info", choices=levels)
    parser.add_argument(
        "--log-format",
        default="text",
        choices=["text", "json"],
        help="lines for people, or a JSON object a line (default: %(default)s)",
    )


def configure(*, level: str, format: str = "text") -> None:
    """Send logs of `level` and above to standard error, and what ends the process unforeseen."""
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(JsonLines())
        sys.excepthook = lambda kind, error, trace: logging.critical(
            "the process ends by a mistake", exc_info=(kind, error, trace)
        )
    else:
        handler.setFormatter(KeyValues("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def fail(program: str, problems: Iterable[str], *, format: str = "text") -> NoReturn:
    """End with status 1; each of `problems` is a line of the log's format."""
    if format == "text":
        sys.exit("\n".join(f"{program}: {problem}" for problem in problems))
    for problem in problems:
        logging.getLogger(program).critical(problem)
    sys.exit(1)
