"""The types of som's API, the runtime that speaks with the API server, logs and endpoint."""

from collections.abc import Iterator
from typing import Final

VERSION: Final = "0.1.0"


class SomError(Exception):
    """Base of every error that som raises: says what failed, on what, and the cure.

    `is_race`: somebody else was faster; the next attempt sees what he did. `reason`: its name in
    CamelCase where a condition should tell it from others.
    """

    is_race = False
    reason = ""


def reasons(failure: BaseException) -> Iterator[SomError]:
    """Our errors of a failure, groups unfolded; anything else is a bug and is raised."""
    if isinstance(failure, BaseExceptionGroup):
        for inner in failure.exceptions:
            yield from reasons(inner)
    elif isinstance(failure, SomError):
        yield failure
    else:
        raise failure
