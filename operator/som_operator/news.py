"""The latest Events of som in the cluster, for the fleet API: so many at most.

Whoever may write Events in namespace default may write such as look like ours, and any number.
"""

import asyncio
import collections
import datetime
from collections.abc import Sequence
from typing import Final, NoReturn

from som_api import kube, v1alpha1
from som_api.run import clock
from som_api.web import fleet

NAMESPACE: Final = "default"
COMPONENTS: Final = ("som-operator", "som-agent")
MOST: Final = 2000
LAST_S: Final = 3600.0
"""The API server forgets them after that, too."""

_KINDS: Final = ("Node", "SomNode", "SomPool")


class News:
    """Follows the Events of both components."""

    def __init__(self, client: kube.Client, changes: fleet.Changes, *, time: clock.Clock) -> None:
        self._changes = changes
        self._time = time
        self._latest: collections.OrderedDict[str, fleet.Event] = collections.OrderedDict()
        # Nothing stays in the caches of the reflectors, which have no bound.
        self._watches = [
            kube.Reflector[object](
                client,
                kube.EVENTS,
                decode=self._take,
                on_change=lambda _key, _old, _new: None,
                namespace=NAMESPACE,
                field_selector=f"reportingComponent={component}",
                time=time,
            )
            for component in COMPONENTS
        ]

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches:
                tasks.create_task(watch.run())
        raise AssertionError("reflectors run for ever")

    def events(self) -> Sequence[fleet.Event]:
        """The latest, the newest first."""
        oldest = kube.rfc3339(self._time.now() - datetime.timedelta(seconds=LAST_S))
        found = [event for event in self._latest.values() if event.last >= oldest]
        return sorted(found, key=lambda event: (event.last, event.id), reverse=True)

    def _take(self, item: kube.Json) -> None:
        event = _event(item)
        if event.kind not in _KINDS:
            return
        self._latest[event.id] = event
        self._latest.move_to_end(event.id)
        while len(self._latest) > MOST:
            # The first list comes in the order of names; later ones come as they happen.
            self._latest.popitem(last=False)
        self._changes.note("event", event.id)


def _event(item: kube.Json) -> fleet.Event:
    about, metadata = item.get("involvedObject", {}), item["metadata"]
    first = _text(item.get("firstTimestamp")) or _text(metadata.get("creationTimestamp"))
    count = item.get("count")
    return fleet.Event(
        id=metadata["name"],
        kind=_text(about.get("kind")),
        name=_text(about.get("name")),
        type=_text(item.get("type")),
        reason=_text(item.get("reason")),
        message=_text(item.get("message")),
        component=_text(item.get("reportingComponent")),
        count=count if isinstance(count, int) else 1,
        first=first,
        last=_text(item.get("lastTimestamp")) or first,
    )


def _text(value: object) -> str:
    return value[: v1alpha1.LONGEST_MESSAGE] if isinstance(value, str) else ""
