"""What is refused, and how it is said: in the JSON of Kubernetes' Status, with a cure."""

import http
from typing import Annotated, Literal

import pydantic
from starlette import responses

from som_api import SomError


class Status(pydantic.BaseModel):
    """Kubernetes' metav1.Status, as the API server answers a request that failed."""

    api_version: Annotated[Literal["v1"], pydantic.Field(alias="apiVersion")] = "v1"
    kind: Literal["Status"] = "Status"
    metadata: dict[str, str] = {}
    status: Literal["Failure"] = "Failure"
    message: Annotated[str, pydantic.Field(description="What was refused, and the cure")]
    reason: Annotated[str, pydantic.Field(description="Forbidden, NotFound and so on")]
    code: Annotated[int, pydantic.Field(description="The HTTP status")]


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    414: "RequestURITooLong",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class Refusal(SomError):
    """A request that is not answered as asked: HTTP status `code`, with a text for people."""

    def __init__(self, code: int, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


def body(code: int, message: str) -> bytes:
    """The JSON of a refusal."""
    reason = _REASONS.get(code) or http.HTTPStatus(code).phrase.replace(" ", "")
    return Status(message=message, reason=reason, code=code).model_dump_json(by_alias=True).encode()


def headers(refusal: Refusal) -> dict[str, str]:
    """The HTTP headers that belong to a refusal."""
    if refusal.code == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(refusal.retry_after_s)} if refusal.retry_after_s else {}


def response(refusal: Refusal) -> responses.Response:
    """The answer to a request that is refused."""
    return responses.Response(
        body(refusal.code, str(refusal)),
        status_code=refusal.code,
        headers=headers(refusal),
        media_type="application/json",
    )
