"""Events on Nodes, as long as they are few.

One edit of a SomPool is news of every node of a fleet. `PER_REASON` of them within `WINDOW_S` go
to the Nodes; the others go to their pool, where the recorder makes one Event that counts.
"""

import dataclasses
from typing import Final

from som_api import kube
from som_api.run import clock

PER_REASON: Final = 50
WINDOW_S: Final = 600.0


class NodeEvents:
    """The Events that nodes may have still, by reason."""

    def __init__(self, recorder: kube.Recorder, *, time: clock.Clock) -> None:
        self._recorder = recorder
        self._time = time
        self._spent: dict[str, int] = {}
        self._ends_s = 0.0

    def of_pool(self, pool: kube.ObjectRef | None) -> kube.Emitter:
        """Emits on a Node, or on `pool`; where that is None, one Event too many is lost."""
        return _OfPool(self, pool)

    def emit(
        self,
        node: kube.ObjectRef,
        pool: kube.ObjectRef | None,
        *,
        reason: str,
        message: str,
        warning: bool,
    ) -> None:
        """The Event on `node` while there are few like it, else on `pool`."""
        now_s = self._time.monotonic()
        if now_s >= self._ends_s:
            self._spent.clear()
            self._ends_s = now_s + WINDOW_S
        spent = self._spent.get(reason, 0)
        self._spent[reason] = spent + 1
        if spent < PER_REASON:
            self._recorder.emit(node, reason=reason, message=message, warning=warning)
        elif pool is not None:
            told = f"{node.name}: {message}"
            self._recorder.emit(pool, reason=reason, message=told, warning=warning)


@dataclasses.dataclass(frozen=True)
class _OfPool:
    events: NodeEvents
    pool: kube.ObjectRef | None

    def emit(
        self, target: kube.ObjectRef, *, reason: str, message: str, warning: bool = False
    ) -> None:
        self.events.emit(target, self.pool, reason=reason, message=message, warning=warning)
