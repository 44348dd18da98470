"""A reflector of Nodes under test, and what it delivered."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

from fakes.clock import FakeClock
from som_api import kube

DEADLINE_S = 10.0
QUICK_IDLE_TIMEOUT_S = 0.05


class Watching:
    """Keeps the label `v` of each Node; `changes` is what was delivered, as (name, old, new)."""

    def __init__(
        self,
        client: kube.Client,
        clock: FakeClock,
        *,
        field_selector: str = "",
        resync_s: float | None = None,
        idle_timeout_s: float = 5.0,
        seed: int = 0,
    ) -> None:
        self.changes: list[tuple[str, str | None, str | None]] = []
        self.reflector = kube.Reflector(
            client,
            kube.NODES,
            decode=_decode,
            on_change=lambda key, old, new: self.changes.append((key.name, old, new)),
            field_selector=field_selector,
            resync_s=resync_s,
            idle_timeout_s=idle_timeout_s,
            time=clock,
            jitter=random.Random(seed),
        )

    @property
    def seen(self) -> dict[str, str]:
        return {key.name: value for key, value in self.reflector.cache.items()}

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


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`, but not for ever."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def _decode(item: kube.Json) -> str | None:
    value: str = item["metadata"].get("labels", {}).get("v", "")
    if value == "unreadable":
        raise ValueError("from a newer version")
    return None if value == "boring" else value
