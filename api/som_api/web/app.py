"""The fleet API as an ASGI application."""

import functools
from typing import Any, Final

import fastapi
from fastapi import exceptions
from starlette import exceptions as starlette_exceptions
from starlette import types

from som_api import VERSION
from som_api.run import clock
from som_api.web import (
    access,
    context,
    counting,
    fleet,
    gathering,
    limits,
    lists,
    refusals,
    rows,
    watching,
)
from som_api.web.page import site

_OF_THE_API: Final = ("/api/", "/openapi.json")
_REFUSED: dict[int | str, dict[str, Any]] = {
    code: {"model": refusals.Status, "description": description}
    for code, description in {
        400: "A parameter is wrong, or unknown",
        401: "No token, or none that the API server knows",
        403: "The right is missing",
        404: "There is no such object",
        413: "The request has a body",
        414: "The request is too long",
        503: "The caches are not complete yet, or the API server does not answer",
    }.items()
}


class _Api(fastapi.FastAPI):
    """Whose schema says that what is invalid is answered with 400."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        return schema


def create(
    of: fleet.Fleet,
    reviewer: access.Reviewer,
    *,
    answers: counting.Answers | None = None,
    time: clock.Clock | None = None,
) -> types.ASGIApp:
    """The application: the API under /api/v1, and the page at all other paths.

    It counts its answers in `answers`.
    """
    time = time or clock.SystemClock()
    at_hand = context.Context(
        fleet=of,
        access=access.Access(reviewer, time=time),
        rows=rows.Rows(of),
        gatherer=gathering.Gatherer(of, time=time),
    )
    app = api()
    pages = site.Site(at_hand).application()

    async def both(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        is_page = scope["type"] == "http" and not scope["path"].startswith(_OF_THE_API)
        context.put(at_hand, scope)
        await (pages if is_page else app)(scope, receive, send)

    return counting.Counting(
        limits.Limits(both), counting.Answers() if answers is None else answers
    )


@functools.cache
def api() -> fastapi.FastAPI:
    """The API alone, with its schema at /openapi.json; it has no state.

    A request for it has a `context.Context` in its scope.
    """
    app = _Api(
        title="som fleet API",
        version=VERSION,
        description="Who has which memory where, with the rights that kubectl has.",
        # Its pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_REFUSED,
    )
    app.include_router(lists.router)
    app.include_router(watching.router)
    app.add_exception_handler(refusals.Refusal, _refused)
    app.add_exception_handler(exceptions.RequestValidationError, _invalid)
    app.add_exception_handler(starlette_exceptions.HTTPException, _http)
    return app


async def _refused(_: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, refusals.Refusal)
    return refusals.response(error)


async def _invalid(_: fastapi.Request, error: Exception) -> fastapi.Response:
    """The parameters at fault, by their names; never their values, which may be anything."""
    assert isinstance(error, exceptions.RequestValidationError)
    faults = (f"{str(each['loc'][-1])[:64]!r}: {each['msg']}" for each in error.errors()[:10])
    return refusals.response(
        refusals.Refusal(400, f"{'; '.join(faults)}; /openapi.json has all parameters")
    )


async def _http(_: fastapi.Request, error: Exception) -> fastapi.Response:
    assert isinstance(error, starlette_exceptions.HTTPException)
    refusal = refusals.Refusal(error.status_code, f"{error.detail}; /openapi.json has all paths")
    answer = refusals.response(refusal)
    answer.headers.update(error.headers or {})
    return answer
