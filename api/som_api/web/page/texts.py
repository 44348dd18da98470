"""How the page says amounts, ages and states. Pure."""

import dataclasses
import datetime
from typing import Final

from som_api import leases, v1alpha1
from som_api.web.page import summary

_UNITS: Final = (("Pi", 2**50), ("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20))
_LONGEST_NAME: Final = 48
_AGES: Final = ((86400, "d"), (3600, "h"), (60, "min"))


@dataclasses.dataclass(frozen=True)
class State:
    """A state in a word, with its tone: the name of a class in the sheet."""

    tone: str
    text: str


def amount(count_bytes: int) -> str:
    """Bytes in three digits and a suffix, such as `37.5 Gi`."""
    for suffix, size in _UNITS:
        if count_bytes >= size:
            value = count_bytes / size
            digits = 0 if value >= 100 or value == int(value) else 1
            return f"{value:.{digits}f}\u00a0{suffix}"
    return f"{count_bytes}\u00a0B" if count_bytes else "0"


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def short(name: str) -> str:
    """A name within a sentence: one of 253 characters would hide the sentence."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def percent(part: int, whole: int) -> str:
    """`part` of `whole`; never 0 or 100 while it is not quite that."""
    if whole <= 0:
        return "0"
    value = 100 * part / whole
    if 0 < value < 1:
        return "<1"
    return "99" if 99 < value < 100 else f"{value:.0f}"


def age(since: str | None, now: datetime.datetime) -> str:
    """How long ago an RFC 3339 time is, such as `3 d`; "" where it is none."""
    moment = read_time(since)
    return age_of(moment, now) if moment else ""


def age_of(moment: datetime.datetime, now: datetime.datetime) -> str:
    """How long ago it is, such as `3 d`."""
    seconds = max(0, int((now - moment).total_seconds()))
    for size, suffix in _AGES:
        if seconds >= size:
            return f"{seconds // size}\u00a0{suffix}"
    return f"{seconds}\u00a0s"


def read_time(text: str | None) -> datetime.datetime | None:
    """An RFC 3339 time; None where a stranger wrote something else."""
    try:
        moment = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def words(reason: str) -> str:
    """A CamelCase reason as words, such as `partly reserved`; abbreviations stay."""
    spaced = "".join(
        f" {letter}"
        if letter.isupper()
        and at
        and (reason[at - 1].islower() or reason[at + 1 : at + 2].islower())
        else letter
        for at, letter in enumerate(reason)
    )
    return " ".join(word if word[1:2].isupper() else word.lower() for word in spaced.split())


def state(troubles: tuple[summary.Trouble, ...]) -> State:
    """The worst trouble in a word; else that there is none."""
    if not troubles:
        return State("good", "ready")
    return State(troubles[0].tone.name.lower(), words(troubles[0].reason))


def fine(condition: v1alpha1.Condition) -> str:
    """A condition that is as it should be: one that is false says that it is not so."""
    kind = words(condition.type)
    return kind if condition.status == "True" else f"not {kind}"


_LEASES: Final[dict[leases.State, State]] = {
    "Waiting": State("info", "waiting for memory"),
    "Building": State("info", "being zeroed"),
    "Ready": State("info", "ready to start"),
    "Delivered": State("good", "in use"),
    "Releasing": State("warn", "ended, still held"),
}


def lease_state(of: leases.State) -> State:
    """How a lease stands."""
    return _LEASES[of]
