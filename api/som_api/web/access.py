"""Who asks, and what he may see: tokens by TokenReview, rights by SubjectAccessReview.

What kubectl may list, get and watch, som shows. Answers of the API server are kept for moments, so
that a right that was taken away is gone here within `ALLOWED_S`. What strangers send costs little:
tokens are bounded, so are the answers that are kept, and the reviews that are under way.
"""

import asyncio
import collections
import dataclasses
import hashlib
import re
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Generic, Protocol, TypeVar

from som_api import kube
from som_api.run import clock
from som_api.web import refusals

ALLOWED_S: Final = 30.0
REFUSED_S: Final = 5.0
MOST_KEPT: Final = 4096
MOST_REVIEWS: Final = 8
REVIEW_S: Final = 10.0
LONGEST_TOKEN: Final = 8192

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=:-]+")
_TOKEN_CURE: Final = "log in with a token that is valid, for example of `kubectl create token NAME`"
_TOKENREVIEWS: Final = kube.Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews")
_ACCESSREVIEWS: Final = kube.Resource(
    "authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews"
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who the API server says that a token belongs to."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Right:
    """To do `verb` with a resource; without `name` with all of the namespace, or of the cluster."""

    verb: str
    resource: kube.Resource
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        group = self.resource.api_version.rpartition("/")[0]
        what = f"{self.verb} {'.'.join(filter(None, (self.resource.plural, group)))}"
        if self.name:
            what += f" {self.name!r}"
        return f"{what} in namespace {self.namespace!r}" if self.namespace else what


class Reviewer(Protocol):
    """Who knows tokens and rights: `ApiServer`, and in tests `fakes.reviewer`."""

    async def caller(self, token: str) -> Caller | None:
        """Whose token this is; None: nobody's. KubeError: there was no answer."""

    async def is_allowed(self, caller: Caller, right: Right) -> bool:
        """Whether he has the right. KubeError: there was no answer."""


class ApiServer:
    """The API server as the judge."""

    def __init__(self, client: kube.Client) -> None:
        self._client = client

    async def caller(self, token: str) -> Caller | None:
        """See `Reviewer`."""
        status = await self._review(_TOKENREVIEWS, {"token": token})
        if not status.get("authenticated"):
            return None
        user = status["user"]
        return Caller(
            username=user.get("username", ""),
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups", ())),
            extra=tuple((key, tuple(values)) for key, values in user.get("extra", {}).items()),
        )

    async def is_allowed(self, caller: Caller, right: Right) -> bool:
        """See `Reviewer`."""
        group, _, version = right.resource.api_version.rpartition("/")
        spec = {
            "user": caller.username,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
            "resourceAttributes": {
                "verb": right.verb,
                "group": group,
                "version": version,
                "resource": right.resource.plural,
                "namespace": right.namespace,
                "name": right.name,
            },
        }
        status = await self._review(_ACCESSREVIEWS, spec)
        return status.get("allowed") is True

    async def _review(self, kind: kube.Resource, spec: kube.Json) -> dict[str, Any]:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "spec": spec}
        answer = await self._client.create(kind.path(), body)
        status: dict[str, Any] = answer.get("status", {})
        return status


class Access:
    """What the requests ask; every refusal is a `Refusal` with a cure."""

    def __init__(self, reviewer: Reviewer, *, time: clock.Clock) -> None:
        self._reviewer = reviewer
        self._time = time
        self._callers = _Kept[bytes, Caller | None](time)
        self._rights = _Kept[tuple[Caller, Right], bool](time)
        self._reviews = asyncio.Semaphore(MOST_REVIEWS)

    async def caller(self, token: str) -> Caller:
        """Whose token this is.

        Raises:
            Refusal: 401: nobody's, or none; 503: the API server did not say.
        """
        if not token:
            raise refusals.Refusal(
                401, f"who is this? Send 'Authorization: Bearer TOKEN': {_TOKEN_CURE}"
            )
        if len(token) > LONGEST_TOKEN or not _TOKEN.fullmatch(token):
            raise refusals.Refusal(401, f"this is no token; {_TOKEN_CURE}")
        found = await self._ask(
            self._callers,
            hashlib.sha256(token.encode()).digest(),
            lambda: self._reviewer.caller(token),
        )
        if found is None:
            raise refusals.Refusal(
                401, f"the API server does not know this token, or it has expired; {_TOKEN_CURE}"
            )
        return found

    async def allows(self, caller: Caller, right: Right) -> bool:
        """Whether he has the right. Refusal 503: the API server did not say."""
        return await self._ask(
            self._rights,
            (caller, right),
            lambda: self._reviewer.is_allowed(caller, right),
        )

    async def demand(self, caller: Caller, right: Right, *, cure: str = "") -> None:
        """Refusal 403 for who has not the right; `cure` beside asking an admin for it."""
        if not await self.allows(caller, right):
            raise refusals.Refusal(
                403,
                f"{caller.username[:256]} may not {right}; "
                f"{cure or 'ask an admin for that right, as kubectl needs it, too'}",
            )

    async def _ask(self, kept: "_Kept[K, V]", key: K, review: Callable[[], Awaitable[V]]) -> V:
        if (known := kept.get(key)) is not None:
            return known[0]
        try:
            async with self._time.timeout(REVIEW_S), self._reviews:
                # Whoever asked the same has the answer now.
                if (known := kept.get(key)) is not None:
                    return known[0]
                return kept.put(key, await review())
        except (kube.KubeError, TimeoutError) as error:
            raise refusals.Refusal(
                503,
                f"the API server did not say who this is and what he may see ({error}); "
                "try again, and see the operator's log",
                retry_after_s=2,
            ) from error


class _Kept(Generic[K, V]):
    """Answers of the API server, for their time; the one least used goes first."""

    def __init__(self, time: clock.Clock) -> None:
        self._time = time
        self._answers: collections.OrderedDict[K, tuple[float, V]] = collections.OrderedDict()

    def get(self, key: K) -> tuple[V] | None:
        """(answer,) if there is one that still counts."""
        found = self._answers.get(key)
        if found is None or found[0] <= self._time.monotonic():
            return None
        self._answers.move_to_end(key)
        return (found[1],)

    def put(self, key: K, value: V) -> V:
        lasts_s = ALLOWED_S if value else REFUSED_S
        self._answers[key] = (self._time.monotonic() + lasts_s, value)
        self._answers.move_to_end(key)
        while len(self._answers) > MOST_KEPT:
            self._answers.popitem(last=False)
        return value
