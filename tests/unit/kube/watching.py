"""A reflector of Nodes under test, and what it delivered."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

from fakes.clock import FakeClock
from som_api import kube
from som_api.run import heartbeats

QUICK_IDLE_TIMEOUT_S = 0.05


class Watching:
    """Keeps the label `v` of each Node; `changes` is what was delivered, as (name, old, new)."""

    def __init__(
        self,
        client: kube.Client,
        clock: FakeClock,
        *,
        field_selector: str = "",
        idle_timeout_s: float = 5.0,
        mistaken_about: str = "",
        seed: int = 0,
    ) -> None:
        self.changes: list[tuple[str, str | None, str | None]] = []
        self.beats = heartbeats.Heartbeats(monotonic=clock.monotonic)
        self._mistaken_about = mistaken_about
        self.reflector = kube.Reflector(
            client,
            kube.NODES,
            decode=_decode,
            on_change=self._take,
            field_selector=field_selector,
            idle_timeout_s=idle_timeout_s,
            beats=self.beats,
            time=clock,
            jitter=random.Random(seed),
        )

    @property
    def seen(self) -> dict[str, str]:
        return {key.name: value for key, value in self.reflector.cache.items()}

    def has(self, **seen: str) -> Callable[[], bool]:
        return lambda: self.seen == seen

    @property
    def unreadable(self) -> dict[str, str]:
        return {key.name: problem for key, problem in self.reflector.unreadable.items()}

    def _take(self, key: kube.Key, old: str | None, new: str | None) -> None:
        if key.name == self._mistaken_about:
            raise KeyError("mine")
        self.changes.append((key.name, old, new))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Watching"]:
        task = asyncio.create_task(self.reflector.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def node(name: str, value: str = "1", **labels: str) -> kube.Json:
    return {"metadata": {"name": name, "labels": {"v": value, **labels}}}


def _decode(item: kube.Json) -> str | None:
    value: str = item["metadata"].get("labels", {}).get("v", "")
    if value == "unreadable":
        raise ValueError("from a newer version")
    if value == "partly":
        raise kube.Unreadable("the rest", partly="something")
    return None if value == "boring" else value
