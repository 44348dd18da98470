"""Where an agent's observations go in a test: they are kept."""

from som_api import v1alpha1
from som_device_plugin import seams


class FakeReporter:
    """Implements `seams.Reporter`; `events` and `reports` are what it was told, oldest first."""

    def __init__(self) -> None:
        self.events: list[seams.Event] = []
        self.reports: list[v1alpha1.SomNodeStatus] = []

    async def report(self, status: v1alpha1.SomNodeStatus) -> None:
        self.reports.append(status)

    async def event(self, event: seams.Event) -> None:
        self.events.append(event)
