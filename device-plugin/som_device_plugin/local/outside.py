"""The agent's neighbours as files: orders, pods, reports."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from som_api import v1alpha1
from som_device_plugin import pods, seams
from som_device_plugin.local import layout

LOOK_EVERY_S: Final = 0.1

_log = logging.getLogger(__name__)


class _WatchedJson:
    """A JSON file that others replace: read again when it is another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def news(self) -> Any | None:
        """The file's content if it changed since the last call; None: no news."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            if identity == self._seen:
                return None
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            _log.error("reading %s: %s; keeping what was known", self._path, error)
            return None
        self._seen = identity
        return content


class FileSpecs:
    """`seams.SpecSource`: a SomNode in a file."""

    def __init__(self, path: Path) -> None:
        self._file = _WatchedJson(path)

    async def specs(self) -> AsyncIterator[tuple[int, v1alpha1.SomNodeSpec]]:
        """The orders now and whenever the file is replaced."""
        while True:
            if (manifest := self._file.news()) is not None:
                node = v1alpha1.SomNode.model_validate(manifest)
                yield node.metadata.generation, node.spec
            await asyncio.sleep(LOOK_EVERY_S)


class FilePods:
    """`seams.PodSource`: a PodList in a file. A file that vanishes is no information."""

    def __init__(self, path: Path) -> None:
        self._file = _WatchedJson(path)
        self._pods: dict[tuple[str, str], seams.Pod] | None = None

    @property
    def synced(self) -> bool:
        """Whether the file was read once."""
        self._look()
        return self._pods is not None

    def get(self, *, namespace: str, name: str) -> seams.Pod | None:
        """The pod of this name now."""
        self._look()
        return (self._pods or {}).get((namespace, name))

    def pods(self) -> Sequence[seams.Pod]:
        """All pods of the file."""
        self._look()
        return tuple((self._pods or {}).values())

    def _look(self) -> None:
        if (listed := self._file.news()) is not None:
            found = [pods.decode_pod(manifest) for manifest in listed["items"]]
            self._pods = {(pod.namespace, pod.name): pod for pod in found}


class FileReporter:
    """`seams.Reporter`: the status in a file, events in the log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""

    async def report(self, status: v1alpha1.SomNodeStatus) -> None:
        """Replace the file if `status` says something new."""
        text = status.model_dump_json(indent=2)
        if text != self._written:
            try:
                layout.write_atomically(self._path, text)
            except OSError as error:
                _log.error("writing %s: %s; written with the next report", self._path, error)
            else:
                self._written = text

    async def event(self, event: seams.Event) -> None:
        """Log the event."""
        level = logging.WARNING if event.warning else logging.INFO
        _log.log(level, "%s: %s", event.reason, event.message)


def files(state_dir: layout.StateDir) -> seams.Outside:
    """The neighbours of the agent whose state directory this is."""
    return seams.Outside(
        specs=FileSpecs(state_dir.orders),
        pods=FilePods(state_dir.pods),
        reporter=FileReporter(state_dir.status),
    )
