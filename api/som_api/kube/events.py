"""Events, as `kubectl describe` shows them under an object or a Node.

Core v1 Events, because their count and time stamps are what `kubectl describe` prints as
"x5 over 3m". An Event is news for people: it never delays or fails the work that emits it.

A repeated Event is counted, and written at most once a minute. Once `SIMILAR` different messages
with one reason about one object have come within ten minutes, further ones become one Event that
keeps counting (as client-go's event correlator does it). Memory and time are bounded, whatever a
fleet does: the `MOST_TOPICS` latest topics are remembered, `OUTBOX` Events wait to be written, and
those beyond are counted.
"""

import asyncio
import collections
import dataclasses
import datetime
import logging
import random
import uuid
from typing import NoReturn

from som_api import v1alpha1
from som_api.kube import client, errors
from som_api.kube.resource import EVENTS, NODES, Json, ObjectRef, rfc3339
from som_api.run import backoff, clock

REPEAT_S = 60.0
SIMILAR = 10
SIMILAR_WINDOW_S = 600.0
MOST_TOPICS = 4096
OUTBOX = 1000

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
    `dropped` counts Events that were lost because too many waited, or by refusals.
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
        # Topic -> message -> series; the topic of the latest Event last.
        self._topics: collections.OrderedDict[_Topic, dict[str, _Series]] = (
            collections.OrderedDict()
        )
        self._outbox: asyncio.Queue[_Series] = asyncio.Queue(maxsize=OUTBOX)
        self.dropped = 0
        self._dropping_told_s = -REPEAT_S

    def emit(self, target: ObjectRef, *, reason: str, message: str, warning: bool = False) -> None:
        """Note an Event on `target`; `warning` only for trouble.

        Nodes are named by `node_ref`. Other objects need their `uid`, or `kubectl describe` does
        not find the Event.
        """
        now_s, now = self._time.monotonic(), self._time.now()
        topic = _Topic(target, reason, warning)
        series = self._one_of(topic, message[: v1alpha1.LONGEST_MESSAGE], now=now)
        series.count += 1
        series.last = now
        if series.queued_s is not None and now_s - series.queued_s < REPEAT_S:
            return
        series.queued_s = now_s
        try:
            self._outbox.put_nowait(series)
        except asyncio.QueueFull:
            self.dropped += 1
            if now_s - self._dropping_told_s >= REPEAT_S:
                self._dropping_told_s = now_s
                _log.warning("%d Events dropped by now: %d wait", self.dropped, OUTBOX)

    def _one_of(self, topic: _Topic, message: str, *, now: datetime.datetime) -> _Series:
        """The series that `message` belongs to: its own, or the one for all the rest."""
        oldest = now - datetime.timedelta(seconds=SIMILAR_WINDOW_S)
        remembered = self._topics.pop(topic, {})
        known = {key: series for key, series in remembered.items() if series.last >= oldest}
        self._topics[topic] = known
        if len(self._topics) > MOST_TOPICS:
            self._topics.popitem(last=False)
        key = message if message in known or len(known) < SIMILAR else ""
        series = known.get(key)
        if series is None:
            name = f"{topic.target.name[:200].rstrip('-.')}.{uuid.uuid4().hex[:16]}"
            series = known[key] = _Series(topic, name, message, first=now, last=now)
        if not key:
            series.message = f"(combined from similar events) {message}"
        return series

    async def run(self) -> NoReturn:
        """Write what was emitted until cancelled; a server that is away is waited for."""
        while True:
            series = await self._outbox.get()
            try:
                while not await self._write(series):
                    await self._time.sleep(self._backoff.next_s())
            except Exception:
                _log.exception("Event %s is lost: a mistake", series.topic.reason)
                self.dropped += 1
            self._backoff.reset()

    async def _write(self, series: _Series) -> bool:
        """Create or update the Event; return False if that should be tried again."""
        try:
            if series.written:
                repetition = {
                    "count": series.count,
                    "lastTimestamp": rfc3339(series.last),
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
            if error.status == 409 and not series.written:
                # Written before, by a request whose answer did not come.
                series.written = True
                return True
            if error.status in (0, 401, 429) or error.status >= 500:
                return False
            self.dropped += 1
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
            "firstTimestamp": rfc3339(series.first),
            "lastTimestamp": rfc3339(series.last),
            "count": series.count,
        }
