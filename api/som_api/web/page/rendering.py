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


class Renderer:
    """Makes answers of templates; what they show is escaped."""

    def __init__(self) -> None:
        self._files = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            amount=texts.amount,
            count=texts.count,
            state=texts.state,
            lease_state=texts.lease_state,
            age=lambda since: texts.age(since, now()),
            share=lambda row: shares.share(
                row.capacity_bytes, row.allocated_bytes, row.ordered_bytes
            ),
        )
        self._templates.globals.update(static=self._path, version=VERSION)

    def answer(
        self,
        request: requests.Request,
        template: str,
        *,
        who: session.Viewer | None = None,
        status: int = 200,
        **values: Any,
    ) -> responses.Response:
        """The template with `values`, in the page's frame."""
        text = self._templates.get_template(template).render(
            who=who, path=request.url.path, now=f"{now():%H:%M:%S} UTC", **values
        )
        return responses.HTMLResponse(text, status, headers=HEADERS)

    async def static(self, request: requests.Request) -> responses.Response:
        """A file of the package. The digest in its path changes with it, so it can be kept."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise refusals.Refusal(404, "there is no such file")
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return responses.Response(self._files[name], headers=headers, media_type=_STATIC[name])

    def _path(self, name: str) -> str:
        return f"/static/{name}?{hashlib.sha256(self._files[name]).hexdigest()[:12]}"


def now() -> datetime.datetime:
    """The time in UTC, for ages."""
    return datetime.datetime.now(datetime.UTC)
