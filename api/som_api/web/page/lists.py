"""A list of thousands in pages: what to show of it, and the links to the rest. Pure."""

import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

from som_api.web import refusals

PER_PAGE: Final = 50
_LONGEST: Final = 253
"""Characters of a text to filter by: as long as a name can be."""

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Page(Generic[Item]):
    """Some items of a list; `before` and `after` lead to the next ones, or are ""."""

    items: Sequence[Item]
    said: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True)
class Query:
    """What a list was asked for. `given` are its parameters as they were checked."""

    path: str
    given: Mapping[str, str]
    number: int

    def page(self, items: Sequence[Item], of: str) -> Page[Item]:
        """The page that was asked for, or the last one; `of` says what the items are."""
        last = max(1, -(-len(items) // PER_PAGE))
        number = min(self.number, last)
        first = (number - 1) * PER_PAGE
        shown = items[first : first + PER_PAGE]
        said = f"no {of}"
        if shown:
            said = f"{first + 1:,} to {first + len(shown):,} of {len(items):,} {of}"
        return Page(
            items=shown,
            said=said.replace(",", "\u202f"),
            before=self.link(page=str(number - 1)) if number > 1 else "",
            after=self.link(page=str(number + 1)) if number < last else "",
        )

    def link(self, **changed: str) -> str:
        """This list with other parameters."""
        return link(self.path, {**self.given, **changed})


def link(path: str, parameters: Mapping[str, str]) -> str:
    """`path` with those parameters that say something."""
    said = {key: value for key, value in parameters.items() if value}
    return f"{path}?{urllib.parse.urlencode(said)}" if said else path


def query(
    path: str,
    parameters: Mapping[str, str],
    *,
    texts: Sequence[str] = (),
    choices: Mapping[str, Sequence[tuple[str, str]]] = {},
) -> Query:
    """The checked query of a list. `choices` are (value, text) as in the form;
    the first is that of who gives none.

    Raises:
        Refusal: 400: a text too long, something that is no choice, or no page.
    """
    given = {}
    for name in texts:
        given[name] = parameters.get(name, "").strip()
        if len(given[name]) > _LONGEST:
            raise refusals.Refusal(400, f"{name} has more than {_LONGEST} characters; shorten it")
    for name, options in choices.items():
        allowed = [value for value, _ in options]
        given[name] = parameters.get(name) or allowed[0]
        if given[name] not in allowed:
            raise refusals.Refusal(400, f"{name} is one of {', '.join(allowed)}")
    page = parameters.get("page", "1")
    if not (page.isascii() and page.isdecimal() and 0 < len(page) < 7 and int(page) > 0):
        raise refusals.Refusal(400, "page is a number from 1 on")
    return Query(path, given, int(page))
