"""Pages of lists: `limit` and `continue`, as in Kubernetes, and bounded."""

import base64
import json
from typing import Annotated, Final

import pydantic

from som_api.web import refusals

MOST: Final = 5000
USUAL: Final = 500
LONGEST_TOKEN: Final = 1024

Key = tuple[str | int, ...]


class Query(pydantic.BaseModel):
    """What every list is asked with. A parameter that is none of its is refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, pydantic.Field(description="At most so many at once", ge=1, le=MOST)] = (
        USUAL
    )
    continue_: Annotated[
        str,
        pydantic.Field(
            alias="continue",
            description="Go on with a list: its `continue`, with the same filters",
            max_length=LONGEST_TOKEN,
        ),
    ] = ""


def token(after: Key | None) -> str:
    """What a client sends back to go on after `after`; "": there is no more."""
    if after is None:
        return ""
    return base64.urlsafe_b64encode(json.dumps(after).encode()).decode().rstrip("=")


def after(sent: str, like: tuple[type[str] | type[int], ...]) -> Key | None:
    """Where the page before ended, of types as in `like`; None: from the beginning.

    Raises:
        Refusal: 400: this is no place.
    """
    if not sent:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(sent + "=" * (-len(sent) % 4)))
        if not isinstance(key, list) or [type(part) for part in key] != list(like):
            raise ValueError
    # RecursionError: of brackets in brackets.
    except (ValueError, RecursionError) as error:
        raise refusals.Refusal(
            400, "continue is not what a list has answered; begin the list without it"
        ) from error
    return tuple(key)
