"""Templates and static files of the page, and the headers that every answer of it has."""

import datetime
import hashlib
import pathlib
from typing import Any, Final

import jinja2
from starlette import requests, responses

from som_api import VERSION
from som_api.web import refusals
from som_api.web.page import session, shares, texts

_HERE: Final = pathlib.Path(__file__).parent
_STATIC: Final = {
    "icon.svg": "image/svg+xml",
    "page.css": "text/css",
    "page.js": "text/javascript",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Else browsers hide from forms of our own where they come from.
    "Referrer-Policy": "same-origin",
}


def answer(
    request: requests.Request,
    template: str,
    *,
    who: session.Viewer | None = None,
    status: int = 200,
    **values: Any,
) -> responses.Response:
    """The template with `values`, which are escaped, in the page's frame."""
    text = _TEMPLATES.get_template(template).render(
        who=who,
        path=request.url.path,
        now=f"{now():%H:%M:%S} UTC",
        seen=getattr(request.state, "seen", ""),
        **values,
    )
    return responses.HTMLResponse(text, status, headers=HEADERS)


async def static(request: requests.Request) -> responses.Response:
    """A file of the package. The digest in its path changes with it, so it can be kept."""
    name = request.path_params["name"]
    if name not in _STATIC:
        raise refusals.Refusal(404, "there is no such file")
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return responses.Response(_FILES[name], headers=headers, media_type=_STATIC[name])


def now() -> datetime.datetime:
    """The time in UTC, for ages."""
    return datetime.datetime.now(datetime.UTC)


def _path(name: str) -> str:
    return f"/static/{name}?{hashlib.sha256(_FILES[name]).hexdigest()[:12]}"


_FILES: Final = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(
    amount=texts.amount,
    count=texts.count,
    state=texts.state,
    lease_state=texts.lease_state,
    age=lambda since: texts.age(since, now()),
    share=lambda row: shares.share(row.capacity_bytes, row.allocated_bytes, row.ordered_bytes),
)
_TEMPLATES.globals.update(static=_path, version=VERSION)
