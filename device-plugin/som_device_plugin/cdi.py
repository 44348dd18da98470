"""Specs of the Container Device Interface: what the runtime gives to the container of a lease.

Theory of operation. Allocate answers with the name of a device, which says nothing yet. The spec
that the name stands for is written when the lease's memory is there, and the runtime looks it up
when it makes the container: after PreStartContainer. It is removed before the memory is taken
away. So a container whose lease is not real is not made: "unresolvable CDI devices".

Source: the CDI specification (github.com/cncf-tags/container-device-interface, SPEC.md). Runtimes
read every *.json of the directory, which other vendors share; other files are left alone.
"""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Final

from som_api import SomError
from som_device_plugin import seams

DIRECTORY: Final = pathlib.Path("/var/run/cdi")
"""Where runtimes look by default, beside /etc/cdi; gone with the boot, as leases' memory is."""

KIND: Final = "som.io/lease"

# The lowest that lets the name of a device begin with a digit.
_VERSION: Final = "0.5.0"
_FILE_MODE: Final = 0o666
_FILE: Final = re.compile(r"som\.io-lease-([0-9a-f]{16})\.json")
_PARTIAL: Final = ".som.io-lease"


class CdiError(SomError):
    """The directory of specs cannot be used."""


def device_name(lease_id: seams.LeaseId) -> str:
    """The name by which a runtime finds the spec of the lease."""
    return f"{KIND}={lease_id}"


class Specs:
    """The specs of leases in `directory`, which it makes; one process at a time.

    Nothing is synced to a disk, because a spec is worth nothing after its boot.

    Raises:
        CdiError: the directory cannot be made, or cannot be written.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        with self._explained("making"):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / _PARTIAL).unlink(missing_ok=True)

    def leases(self) -> frozenset[seams.LeaseId]:
        """The leases that have a spec. Raises CdiError."""
        with self._explained("reading"):
            found = [_FILE.fullmatch(path.name) for path in self._directory.iterdir()]
        return frozenset(seams.LeaseId(match[1]) for match in found if match)

    def write(
        self, lease_id: seams.LeaseId, *, env: Mapping[str, str], edits: seams.ContainerEdits
    ) -> None:
        """Make the lease's spec, or replace it. Raises CdiError."""
        mounts = [
            {"hostPath": m.host_path, "containerPath": m.container_path, "options": m.options}
            for m in edits.mounts
        ]
        nodes = [
            {
                "path": node.container_path,
                "hostPath": node.host_path,
                "type": "c",
                "major": node.major,
                "minor": node.minor,
                "fileMode": _FILE_MODE,
                "permissions": "rw",
            }
            for node in edits.devices
        ]
        in_full = {
            "env": [f"{name}={value}" for name, value in env.items()],
            "mounts": mounts,
            "deviceNodes": nodes,
        }
        device = {"name": lease_id, "containerEdits": in_full}
        spec = {"cdiVersion": _VERSION, "kind": KIND, "devices": [device]}
        # A runtime must never see half of it.
        partial = self._directory / _PARTIAL
        with self._explained("writing"):
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(spec), encoding="utf-8")
            partial.replace(self._path(lease_id))

    def remove(self, lease_id: seams.LeaseId) -> None:
        """From now on no container is made with this lease. Idempotent. Raises CdiError."""
        with self._explained("removing a file of"):
            self._path(lease_id).unlink(missing_ok=True)

    def _path(self, lease_id: seams.LeaseId) -> pathlib.Path:
        return self._directory / f"som.io-lease-{lease_id}.json"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CdiError(
                f"{what} the directory of CDI specs {self._directory}: {error.strerror}; see that "
                "it is there and writable (was it deleted? then delete the agent's pod)"
            ) from error
