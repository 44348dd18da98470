"""Who looks: a token in the cookie that the login set, or a bearer token that a proxy passes.

The cookie is the token itself, so every replica knows it and none keeps sessions. It is HttpOnly
(no script reads it), Secure, SameSite=Strict and `__Host-` (no other site sends or sets it), and
only the page reads it: the API takes the Authorization header alone. A proxy in front passes a
bearer token in that header; a header that merely names a user is nothing to trust.
"""

import base64
import binascii
import dataclasses
import datetime
import json
import urllib.parse
from typing import Final

from starlette import requests, responses

from som_api.web import access, refusals

COOKIE: Final = "__Host-som-token"
LONGEST_TOKEN: Final = 4000
"""Characters: browsers drop a cookie of more than 4096, its name included."""
LONGEST_FORM: Final = 16 * 1024
_LONGEST_PATH: Final = 1024


@dataclasses.dataclass(frozen=True)
class Viewer:
    """Who looks at the page, and whether he can sign out here."""

    caller: access.Caller
    by_cookie: bool

    @property
    def name(self) -> str:
        """What the API server calls him, bounded."""
        return self.caller.username[:253]


async def viewer(request: requests.Request, rights: access.Access) -> Viewer:
    """Who sends this request. Raises Refusal: 401, or 503 where the API server does not say."""
    token, by_cookie = token_of(request)
    return Viewer(await rights.caller(token), by_cookie)


def token_of(request: requests.Request) -> tuple[str, bool]:
    """(token, whether it came as the cookie); the token is "" where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip(), False
    return request.cookies.get(COOKIE, ""), True


def keep(response: responses.Response, token: str) -> None:
    """Have the browser send `token` from now on, until it is closed."""
    response.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="strict")


def forget(response: responses.Response) -> None:
    """Have the browser forget the token."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def demand_same_origin(request: requests.Request) -> None:
    """Refuse a form that another site sends: it could sign somebody in as somebody else.

    Browsers say where a request comes from in headers that no script can set. Refusal 403: from
    elsewhere, or it does not say.
    """
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = urllib.parse.urlsplit(request.headers.get("origin", ""))
        site = "same-origin" if origin.netloc == request.headers.get("host") else ""
    if site != "same-origin":
        raise refusals.Refusal(
            403, "this form was sent from another site; open som's own page and use that one"
        )


async def form(request: requests.Request) -> dict[str, str]:
    """The fields of a form that was sent. Raises Refusal: 413: too large, 400: none."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise refusals.Refusal(413, "this form is too large; a token has some 1000 characters")
    try:
        return dict(urllib.parse.parse_qsl(body.decode("ascii"), max_num_fields=8))
    except ValueError as error:
        raise refusals.Refusal(400, f"this form cannot be read: {error}") from error


def local(path: str) -> str:
    """`path` where it is one of this site; else /: a link must not lead a user elsewhere."""
    is_local = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if is_local and len(path) <= _LONGEST_PATH else "/"


def expired(token: str, *, now: datetime.datetime) -> datetime.datetime | None:
    """When the token ended, where it says so itself and it has.

    It only words a refusal: the API server has refused the token already.
    """
    try:
        _, claims, _ = token.split(".")
        ends_s = json.loads(base64.urlsafe_b64decode(claims + "=="))["exp"]
        ends = datetime.datetime.fromtimestamp(ends_s, datetime.UTC)
    except (
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        OSError,
        binascii.Error,
        RecursionError,
    ):
        return None
    return ends if ends <= now else None
