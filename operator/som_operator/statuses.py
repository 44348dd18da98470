"""Writes the operator's part of a status, and remembers it until the cache has caught up."""

from collections.abc import Set
from typing import Final, Generic, TypeVar

from som_api import kube, v1alpha1
from som_api.run import clock

FIELD_MANAGER: Final = "som-operator"

Status = TypeVar("Status", v1alpha1.SomPoolStatus, v1alpha1.SomNodeStatus)


class Statuses(Generic[Status]):
    """The statuses of one kind of object."""

    def __init__(self, client: kube.Client, *, time: clock.Clock) -> None:
        self._client = client
        self._time = time
        # By name: the version before our last write, the one after it, and what we wrote.
        self._written: dict[str, tuple[str, str, Status]] = {}

    async def publish(
        self,
        target: kube.ObjectRef,
        recorder: kube.Emitter,
        *,
        version: str,
        current: Status,
        wanted: Status,
        dropped: Set[str] = frozenset(),
        about: kube.ObjectRef | None = None,
    ) -> bool:
        """`kube.publish`, where `current` is what a cache has at `version`. Raises KubeError.

        An object that has changed since is not written: whoever changed it may have been another
        leader. The cache is about to learn of it.
        """
        # While the cache has not seen our last write yet, that is what stands.
        before, after, written = self._written.get(target.name, ("", "", current))
        is_behind = before == version
        current = written if is_behind else current
        now = self._time.now()
        new = await kube.publish(
            self._client,
            recorder,
            target,
            current=current,
            wanted=wanted,
            dropped=dropped,
            field_manager=FIELD_MANAGER,
            now=now,
            about=about,
            version=after if is_behind else version,
        )
        if new:
            merged = kube.merge(current.conditions, wanted.conditions, now=now)
            written = wanted.model_copy(update={"conditions": merged})
            self._written[target.name] = (version, new, written)
        return bool(new)

    def forget(self, name: str) -> None:
        """The object is gone."""
        self._written.pop(name, None)
