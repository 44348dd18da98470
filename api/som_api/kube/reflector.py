"""A cache of one collection of the API server, kept by list and watch.

Theory of operation. A list gives the whole truth and a version; a watch from that version gives
every change after it. The version is kept across broken watches, so that a list is needed only
at the start, when the server no longer knows the version (410), and after three answers in a row
that were of no use (a server restored from a backup refuses the version for ever).

A watch that was of use (it brought news, or stood for `STEADY_S`) is taken up again at once when
it ends, but not oftener than every `SPACING_S`: servers end watches at their end of time, when a
client reads slowly, and when they stop themselves. Everything else is followed by a jittered
pause that doubles. Both together: at most 10 requests in 30 s whatever the server does, and a
server that is well again is noticed within 60 s. (A collection of more than `client.PAGE_SIZE`
objects takes one request per page of a list.) A peer that is gone without a word is found by TCP
(see `client`); one that is silent for `idle_timeout_s`, where a server sends bookmarks every
minute, is given up.

Absence of information is not information: the cache changes only by a complete list or an event,
never by an error. An object that cannot be taken in is that object's problem: see `unreadable`.
"""

import asyncio
import contextlib
import functools
import logging
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, NamedTuple, NoReturn, TypeVar, cast

from som_api.kube import client, errors
from som_api.kube.resource import Json, Resource
from som_api.run import backoff, clock, heartbeats

SPACING_S: Final = 3.0
STEADY_S: Final = 10.0
A_TURN: Final = 20
"""Objects that are taken in between two turns of the event loop."""
LASTS_S: Final = (300, 600)
"""How long a watch is asked for, jittered: each renewal is a request of every agent."""

_LONGEST_RETRY_AFTER_S = 30.0
_USELESS_BEFORE_RELIST = 3
_LONGEST_PROBLEM = 500

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Names an object within its collection; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class Unreadable(ValueError):
    """`decode` cannot read an object as it is; `partly` is what can be told of it all the same.

    For a caller who must not take such an object for absent, or for what it was before: the
    identity of a Pod, the names in a SomNode.
    """

    def __init__(self, problem: str, *, partly: object) -> None:
        super().__init__(problem)
        self.partly = partly


class Reflector(Generic[T]):
    """Keeps `decode(object)` of every object of a collection, and reports each change.

    `decode` keeps the fields that the caller needs, or returns None for an object of no
    interest. `on_change(key, old, new)` is called after the cache has changed; None stands for
    absent. It must be quick: typically it adds a key to a `WorkQueue`. A change that leaves the
    decoded value equal is no change. An object that was deleted and created again under its name
    while the watch was down is one change from the old to the new value.

    Whatever `decode` or `on_change` raises is a problem of that one object: it is logged once and
    kept in `unreadable`, and everything else goes on. `on_change` is called, too, when an object
    becomes unreadable or readable again (with `old` and `new` as the cache has them).

    With `gather_s`, changes that come one by one are taken in together after so many seconds: for
    a caller whom that does not keep waiting. `failures` counts how often sight was lost, ends of
    watches that were of use aside.

    With `beats`, the process is unhealthy once the reflector hangs. A server that is away is no
    reason: a new start of the process would not bring it back; see `age_s`.
    """

    def __init__(
        self,
        kube: client.Client,
        resource: Resource,
        *,
        decode: Callable[[Json], T | None],
        on_change: Callable[[Key, T | None, T | None], None],
        namespace: str = "",
        field_selector: str = "",
        idle_timeout_s: float = 150.0,
        gather_s: float = 0.0,
        beats: heartbeats.Heartbeats | None = None,
        time: clock.Clock | None = None,
        jitter: backoff.Jitter | None = None,
    ) -> None:
        self._kube = kube
        self.resource = resource
        self._decode = decode
        self._on_change = on_change
        self._path = resource.path(namespace=namespace)
        self._selectors = {"fieldSelector": field_selector} if field_selector else {}
        self._idle_timeout_s = idle_timeout_s
        self._beats = beats or heartbeats.Heartbeats()
        self._time = time or clock.SystemClock()
        self._gather = functools.partial(self._time.sleep, gather_s) if gather_s else None
        self._jitter = jitter or random.Random()
        self._backoff = backoff.Backoff(jitter=self._jitter)
        self._cache: dict[Key, T] = {}
        self._unreadable: dict[Key, str] = {}
        self._version: str | None = None
        self._useless = 0
        self.failures = 0
        self._is_news = False
        self._since_turn = 0
        self._opened_s: float | None = None
        self._heard_s = self._time.monotonic()
        self._synced = asyncio.Event()

    @property
    def cache(self) -> Mapping[Key, T]:
        """The objects as last known, by key; complete once `synced`, `unreadable` aside."""
        return types.MappingProxyType(self._cache)

    @property
    def unreadable(self) -> Mapping[Key, str]:
        """The objects that exist but cannot be taken in as they are now, with the reason.

        In `cache` stands what `Unreadable.partly` says of such an object, else its last state that
        could be read (which may be that of a predecessor under its name), else nothing: then all
        that is known is that it exists. Whoever concludes something from an absence in `cache`,
        or acts on a value, asks here first.
        """
        return types.MappingProxyType(self._unreadable)

    @property
    def synced(self) -> bool:
        """Whether the first list is complete. Stays true while the server is away."""
        return self._synced.is_set()

    @property
    def age_s(self) -> float:
        """Seconds since the server was last heard: how old the cache may be.

        Up to `idle_timeout_s` where a collection is quiet and the server sends no bookmarks.
        """
        return self._time.monotonic() - self._heard_s

    async def wait_synced(self) -> None:
        """Return when the first list is complete."""
        await self._synced.wait()

    async def run(self) -> NoReturn:
        """Follow the collection until cancelled. Errors of the server are outlived, not raised."""
        while True:
            self._is_news, self._opened_s, problem = False, None, None
            try:
                self._beat()
                if self._version is None:
                    await self._list()
                await self._watch()
            except errors.KubeError as error:
                problem = error
                self._forget_version_if_useless(error)
            except Exception:
                _log.exception("following %s: a mistake; all is listed again", self._path)
                self._version = None
            await self._pause(problem)

    async def _pause(self, problem: errors.KubeError | None) -> None:
        stood_s = 0.0 if self._opened_s is None else self._time.monotonic() - self._opened_s
        was_of_use = self._is_news or stood_s >= STEADY_S
        if was_of_use:
            self._backoff.reset()
            pause_s = max(0.0, SPACING_S - stood_s)
        else:
            self.failures += 1
            pause_s = self._backoff.next_s()
        if problem is not None and problem.retry_after_s is not None:
            pause_s = max(pause_s, min(problem.retry_after_s, _LONGEST_RETRY_AFTER_S))
        _log.log(
            logging.DEBUG if was_of_use else logging.WARNING,
            "lost sight of %s (%s); trying again in %.1f s",
            self._path,
            problem or "the watch ended",
            pause_s,
        )
        if pause_s:
            await self._time.sleep(pause_s)

    def _forget_version_if_useless(self, error: errors.KubeError) -> None:
        if error.reason in ("NoAnswer", "Timeout", "Config"):
            return
        self._useless += 1
        if error.status == 410 or self._useless >= _USELESS_BEFORE_RELIST:
            self._version = None

    def _hear(self) -> None:
        """The server answered: what is known is as old as this moment."""
        self._heard_s = self._time.monotonic()
        self._beat()

    def _beat(self) -> None:
        self._beats.beat(f"watch of {self.resource.plural}")

    async def _list(self) -> None:
        listed: dict[Key, tuple[T | None, str]] = {}
        with self._refusing_malformed("list"):
            async for page in self._kube.pages(self._path, params=self._selectors):
                self._beat()
                for item in page["items"]:
                    listed[_key(item)] = self._read(item)
                    await self._taken()
                version = _version(page)
        for key in (self._cache.keys() | self._unreadable.keys()) - listed.keys():
            self._update(key, None)
            await self._taken()
        for key, (value, problem) in listed.items():
            self._update(key, value, problem)
            await self._taken()
        self._version = version
        self._useless = 0
        self._hear()
        self._synced.set()

    async def _watch(self) -> None:
        assert self._version is not None
        params: dict[str, str | int | bool] = {
            **self._selectors,
            "resourceVersion": self._version,
            "allowWatchBookmarks": True,
            "timeoutSeconds": int(self._jitter.uniform(*LASTS_S)),
        }
        async with self._kube.watch(
            self._path,
            params=params,
            idle_timeout_s=self._idle_timeout_s,
            gather=self._gather,
        ) as events:
            self._opened_s = self._time.monotonic()
            self._hear()
            async for event in events:
                with self._refusing_malformed("watch"):
                    kind, item = event["type"], event["object"]
                    version = _version(item)
                    if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
                        raise ValueError(f"unknown event type {kind!r}")
                    key = None if kind == "BOOKMARK" else _key(item)
                self._is_news = self._is_news or version != self._version
                self._version = version
                self._useless = 0
                if key is not None:
                    self._update(key, *(self._read(item) if kind != "DELETED" else (None, "")))
                self._hear()
                await self._taken()
            self._hear()

    async def _taken(self) -> None:
        """One object is taken in: others get a turn now and then.

        What has come already does not suspend, and a whole list takes seconds. Turns of a busy
        process are long, and a server ends a watch that is read slowly.
        """
        self._since_turn += 1
        if self._since_turn == A_TURN:
            self._since_turn = 0
            await asyncio.sleep(0)

    def _read(self, item: Json) -> tuple[T | None, str]:
        """(value, "") of an object, or (what is known of it, why it cannot be read)."""
        try:
            return self._decode(item), ""
        except Unreadable as error:
            return cast(T, error.partly), str(error)[:_LONGEST_PROBLEM]
        except Exception as error:
            return None, repr(error)[:_LONGEST_PROBLEM]

    def _update(self, key: Key, value: T | None, problem: str = "") -> None:
        old, old_problem = self._cache.get(key), self._unreadable.pop(key, "")
        if problem:
            self._unreadable[key] = problem
            if problem != old_problem:
                _log.error("%s %s cannot be read: %s", self.resource.kind, key, problem)
            value = old if value is None else value
        if value is None:
            self._cache.pop(key, None)
        else:
            self._cache[key] = value
        if old == value and bool(problem) == bool(old_problem):
            return
        try:
            self._on_change(key, old, value)
        except Exception as error:
            _log.exception("%s %s cannot be taken in", self.resource.kind, key)
            self._unreadable[key] = repr(error)[:_LONGEST_PROBLEM]

    @contextlib.contextmanager
    def _refusing_malformed(self, attempted: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.KubeError(
                f"{attempted} {self._path}", status=0, reason="BadAnswer", message=repr(error)
            ) from error


def _key(item: Json) -> Key:
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def _version(item: Json) -> str:
    version = item["metadata"]["resourceVersion"]
    if not isinstance(version, str) or not version:
        raise ValueError("an answer without a resourceVersion")
    return version
