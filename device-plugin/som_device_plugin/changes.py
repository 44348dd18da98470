"""The agent's bell: a part rings it when something has changed, and who listens looks again."""

import asyncio


class Changes:
    """Rung by the pools and the leases; heard by the report and by kubelet's front end."""

    def __init__(self) -> None:
        self._listeners: list[asyncio.Event] = []

    def listen(self) -> asyncio.Event:
        """An event that every ring sets from now on; its listener clears it before it looks."""
        event = asyncio.Event()
        self._listeners.append(event)
        return event

    def ring(self) -> None:
        """Have every listener look again."""
        for event in self._listeners:
            event.set()
