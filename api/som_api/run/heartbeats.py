"""Which loop of the process hangs: each says when it came round, /healthz asks who is late.

A process whose loop waits for ever looks alive from outside; kubelet starts it again only when
/healthz fails (`endpoint.serve(unhealthy=heartbeats.late)`).
"""

import time
from collections.abc import Callable
from typing import Final

WITHIN_S: Final = 300.0
"""How long a loop may take by default: longer than any back-off, so that only a hang is late."""


class Heartbeats:
    """The loops of a process by name, and when each is due to come round.

        while True:
            beats.beat("inventory")
            ...

    A loop calls `beat` each time it comes round, and `rest` before it waits for work that may
    never come. Cheap enough for every turn; not for several threads.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._beats: dict[str, tuple[float, float]] = {}

    def beat(self, loop: str, *, within_s: float = WITHIN_S) -> None:
        """`loop` came round now, and comes again within `within_s` seconds."""
        self._beats[loop] = (self._monotonic(), within_s)

    def rest(self, loop: str) -> None:
        """Expect nothing of `loop` until its next `beat`."""
        self._beats.pop(loop, None)

    def late(self) -> str:
        """The loops that should have come round, in words, or ""."""
        now_s = self._monotonic()
        return "; ".join(
            f"{loop} has not come round for {now_s - at_s:.0f} s"
            for loop, (at_s, within_s) in sorted(self._beats.items())
            if now_s - at_s > within_s
        )
