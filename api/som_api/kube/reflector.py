"""A cache of one collection of the API server, kept by list and watch.

Theory of operation. A list gives the whole truth and a version; a watch from that version gives
every change after it. The version is kept across broken watches, so that a list is needed only
at the start, when the server no longer knows the version (410), and after three watches in a row
that the server refused (a server restored from a backup refuses the version for ever).

Watches end after `idle_timeout_s` - 5 s at the server's side, and are taken up at once; a watch
that is silent for longer hangs (half-open TCP) and is given up. Everything else that ends a watch
is followed by a jittered pause that doubles: at most 10 requests in 30 s whatever the server does,
and a server that is well again is noticed within 60 s. (A collection of more than `PAGE_SIZE`
objects takes one request per page of a list.)

Absence of information is not information: the cache changes only by a complete list or an event,
never by an error, and an object that cannot be decoded keeps its last value.
"""

import asyncio
import contextlib
import logging
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, NamedTuple, NoReturn, TypeVar

from som_api.kube import backoff, client, clock, errors
from som_api.kube.resource import Json, Resource

PAGE_SIZE = 500
LONG_LIVED_S = 30.0

_LONGEST_RETRY_AFTER_S = 30.0
_REFUSALS_BEFORE_RELIST = 3

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Key(NamedTuple):
    """Names an object within its collection; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str


class Reflector(Generic[T]):
    """Keeps `decode(object)` of every object of a collection, and reports each change.

    `decode` keeps the fields that the caller needs, or returns None for an object of no
    interest, and raises ValueError, KeyError or TypeError for one that it cannot read. A change
    that leaves the decoded value equal is no change. `on_change(key, old, new)` is called after
    the cache has changed; None stands for absent. It must be quick: typically it adds a key to
    a `WorkQueue`. An object that was deleted and created again under its name while the watch
    was down is one change from the old to the new value. With `resync_s`, every object is also
    reported unchanged that often.
    """

    def __init__(
        self,
        kube: client.Client,
        resource: Resource,
        *,
        decode: Callable[[Json], T | None],
        on_change: Callable[[Key, T | None, T | None], None],
        field_selector: str = "",
        resync_s: float | None = None,
        idle_timeout_s: float = 50.0,
        time: clock.Clock | None = None,
        jitter: backoff.Jitter | None = None,
    ) -> None:
        self._kube = kube
        self._resource = resource
        self._decode = decode
        self._on_change = on_change
        self._path = resource.path()
        self._selectors = {"fieldSelector": field_selector} if field_selector else {}
        self._resync_s = resync_s
        self._idle_timeout_s = idle_timeout_s
        self._time = time or clock.SystemClock()
        self._backoff = backoff.Backoff(jitter=jitter or random.Random())
        self._cache: dict[Key, T] = {}
        self._version: str | None = None
        self._refusals = 0
        self._synced = asyncio.Event()

    @property
    def cache(self) -> Mapping[Key, T]:
        """The objects as last known, by key; complete once `synced`."""
        return types.MappingProxyType(self._cache)

    @property
    def synced(self) -> bool:
        """Whether the first list is complete. Stays true while the server is away."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return when the first list is complete."""
        await self._synced.wait()

    async def run(self) -> NoReturn:
        """Follow the collection until cancelled. Errors of the server are outlived, not raised."""
        async with asyncio.TaskGroup() as tasks:
            if self._resync_s is not None:
                tasks.create_task(self._resync(self._resync_s))
            tasks.create_task(self._follow())
        raise AssertionError("both tasks run for ever")

    async def _follow(self) -> NoReturn:
        while True:
            started_s = self._time.monotonic()
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
                problem = None
            except errors.KubeError as error:
                problem = error
                self._forget_version_if_refused(error)
            if self._time.monotonic() - started_s >= LONG_LIVED_S:
                self._backoff.reset()
                if problem is None:
                    continue
            pause_s = self._backoff.next_s()
            if problem is not None and problem.retry_after_s is not None:
                pause_s = max(pause_s, min(problem.retry_after_s, _LONGEST_RETRY_AFTER_S))
            _log.warning(
                "lost sight of %s (%s); trying again in %.1f s",
                self._path,
                problem or "the server ended the watch early",
                pause_s,
            )
            await self._time.sleep(pause_s)

    def _forget_version_if_refused(self, error: errors.KubeError) -> None:
        if error.status == 0:
            return
        self._refusals += 1
        if error.status == 410 or self._refusals >= _REFUSALS_BEFORE_RELIST:
            self._version = None

    async def _list(self) -> None:
        listed: dict[Key, T | None] = {}
        params: dict[str, str | int] = {**self._selectors, "limit": PAGE_SIZE}
        while True:
            page = await self._kube.get(self._path, params=params)
            with self._refusing_malformed("list"):
                for item in page["items"]:
                    key = _key(item)
                    listed[key] = self._decoded(key, item)
                version = _version(page)
                token = page["metadata"].get("continue", "")
            if not token:
                break
            params["continue"] = token
        self._version = version
        self._refusals = 0
        for key in self._cache.keys() - listed.keys():
            self._update(key, None)
        for key, value in listed.items():
            self._update(key, value)
        self._synced.set()

    async def _watch(self) -> None:
        assert self._version is not None
        params: dict[str, str | int | bool] = {
            **self._selectors,
            "resourceVersion": self._version,
            "allowWatchBookmarks": True,
            "timeoutSeconds": max(1, int(self._idle_timeout_s) - 5),
        }
        events = self._kube.watch(self._path, params=params, idle_timeout_s=self._idle_timeout_s)
        async with contextlib.aclosing(events):
            async for event in events:
                with self._refusing_malformed("watch"):
                    version = _version(event["object"])
                    change = self._change(event["type"], event["object"])
                self._version = version
                self._refusals = 0
                if change is not None:
                    self._update(*change)

    def _change(self, kind: str, item: Json) -> tuple[Key, T | None] | None:
        """What an event says about which object; None for a bookmark."""
        match kind:
            case "ADDED" | "MODIFIED":
                key = _key(item)
                return key, self._decoded(key, item)
            case "DELETED":
                return _key(item), None
            case "BOOKMARK":
                return None
            case _:
                raise ValueError(f"unknown event type {kind!r}")

    def _update(self, key: Key, value: T | None) -> None:
        old = self._cache.get(key)
        if value is None:
            self._cache.pop(key, None)
        else:
            self._cache[key] = value
        if old != value:
            self._on_change(key, old, value)

    def _decoded(self, key: Key, item: Json) -> T | None:
        try:
            return self._decode(item)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            name = f"{self._resource.kind} {'/'.join(filter(None, key))}"
            if key not in self._cache:
                # Leaving it out would look like a deletion to whoever reads the cache.
                raise ValueError(f"{name} cannot be read: {error!r}") from error
            _log.error("%s cannot be read, its last known state stands: %r", name, error)
            return self._cache[key]

    @contextlib.contextmanager
    def _refusing_malformed(self, attempted: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.KubeError(
                f"{attempted} {self._path}", status=0, reason="BadAnswer", message=repr(error)
            ) from error

    async def _resync(self, every_s: float) -> NoReturn:
        while True:
            await self._time.sleep(every_s)
            for key, value in list(self._cache.items()):
                self._on_change(key, value, value)


def _key(item: Json) -> Key:
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def _version(item: Json) -> str:
    version = item["metadata"]["resourceVersion"]
    if not isinstance(version, str) or not version:
        raise ValueError("an answer without a resourceVersion")
    return version
