"""Events, as `kubectl describe` shows them under an object or a Node.

Core v1 Events, because their count and time stamps are what `kubectl describe` prints as
"x5 over 3m". An Event is news for people: it never delays or fails the work that emits it.

A repeated Event is counted, and written at most once a minute. Once `SIMILAR` different messages
with one reason about one object have come within ten minutes, further ones become one Event that
keeps counting (as client-go's event correlator does it).
"""

import asyncio
import dataclasses
import datetime
import logging
import random
import uuid
from typing import NoReturn

from som_api.kube import backoff, client, clock, errors
from som_api.kube.resource import EVENTS, NODES, Json, ObjectRef

REPEAT_S = 60.0
SIMILAR = 10
SIMILAR_WINDOW_S = 600.0

_OUTBOX = 1000
_LONGEST_MESSAGE = 1024
# Where Events about objects without a namespace belong.
_NAMESPACE = "default"
_log = logging.getLogger(__name__)


def node_ref(name: str) -> ObjectRef:
    """The Node, with the uid by which kubelet's own Events and `kubectl describe node` name it."""
    return ObjectRef(NODES, name, uid=name)


@dataclasses.dataclass(frozen=True)
class _Topic:
    target: ObjectRef
    reason: str
    warning: bool


@dataclasses.dataclass
class _Series:
    """One Event object and its repetitions."""

    topic: _Topic
    name: str
    message: str
    first: datetime.datetime
    last: datetime.datetime
    count: int = 0
    written: bool = False
    queued_s: float | None = None


class Recorder:
    """Puts Events on objects: `emit` notes them, `run` writes them.

    `component` is what `kubectl describe` shows as the sender; `instance` names the process.
    """

    def __init__(
        self,
        kube: client.Client,
        *,
        component: str,
        instance: str,
        time: clock.Clock | None = None,
        jitter: backoff.Jitter | None = None,
    ) -> None:
        self._kube = kube
        self._component = component
        self._instance = instance
        self._time = time or clock.SystemClock()
        self._backoff = backoff.Backoff(jitter=jitter or random.Random())
        self._topics: dict[_Topic, dict[str, _Series]] = {}
        self._outbox: asyncio.Queue[_Series] = asyncio.Queue(maxsize=_OUTBOX)

    def emit(self, target: ObjectRef, *, reason: str, message: str, warning: bool = False) -> None:
        """Note an Event on `target`; `warning` only for trouble.

        Nodes are named by `node_ref`. Other objects need their `uid`, or `kubectl describe` does
        not find the Event.
        """
        now_s, now = self._time.monotonic(), self._time.now()
        self._forget_old(now)
        topic = _Topic(target, reason, warning)
        series = self._one_of(topic, message[:_LONGEST_MESSAGE], now=now)
        series.count += 1
        series.last = now
        if series.queued_s is not None and now_s - series.queued_s < REPEAT_S:
            return
        series.queued_s = now_s
        try:
            self._outbox.put_nowait(series)
        except asyncio.QueueFull:
            _log.warning("Event %s on %s dropped: %d wait", reason, target.name, _OUTBOX)

    def _one_of(self, topic: _Topic, message: str, *, now: datetime.datetime) -> _Series:
        """The series that `message` belongs to: its own, or the one for all the rest."""
        known = self._topics.setdefault(topic, {})
        key = message if message in known or len(known) < SIMILAR else ""
        series = known.get(key)
        if series is None:
            name = f"{topic.target.name[:200]}.{uuid.uuid4().hex[:16]}"
            series = known[key] = _Series(topic, name, message, first=now, last=now)
        if not key:
            series.message = f"(combined from similar events) {message}"
        return series

    def _forget_old(self, now: datetime.datetime) -> None:
        oldest = now - datetime.timedelta(seconds=SIMILAR_WINDOW_S)
        for topic, known in list(self._topics.items()):
            for key, series in list(known.items()):
                if series.last < oldest:
                    del known[key]
            if not known:
                del self._topics[topic]

    async def run(self) -> NoReturn:
        """Write what was emitted until cancelled; a server that is away is waited for."""
        while True:
            series = await self._outbox.get()
            while not await self._write(series):
                await self._time.sleep(self._backoff.next_s())
            self._backoff.reset()

    async def _write(self, series: _Series) -> bool:
        """Create or update the Event; return False if that should be tried again."""
        try:
            if series.written:
                repetition = {
                    "count": series.count,
                    "lastTimestamp": clock.rfc3339(series.last),
                    "message": series.message,
                }
                path = EVENTS.path(namespace=_NAMESPACE, name=series.name)
                await self._kube.merge_patch(path, repetition)
            else:
                await self._kube.create(EVENTS.path(namespace=_NAMESPACE), self._event(series))
                series.written = True
        except errors.KubeError as error:
            if error.status == 404 and series.written:
                # The server forgets Events after an hour.
                series.written = False
                return False
            if error.status in (0, 401, 429) or error.status >= 500:
                return False
            _log.warning("Event %s is lost: %s", series.topic.reason, error)
        return True

    def _event(self, series: _Series) -> Json:
        topic, target = series.topic, series.topic.target
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": series.name, "namespace": _NAMESPACE},
            "involvedObject": {
                "apiVersion": target.resource.api_version,
                "kind": target.resource.kind,
                "name": target.name,
                "namespace": "",
                "uid": target.uid,
            },
            "type": "Warning" if topic.warning else "Normal",
            "reason": topic.reason,
            "message": series.message,
            "source": {"component": self._component, "host": self._instance},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": clock.rfc3339(series.first),
            "lastTimestamp": clock.rfc3339(series.last),
            "count": series.count,
        }
