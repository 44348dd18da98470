"""A hugetlb cgroup for each program, with a limit of 0 for every size, as kubelet gives pods."""

import errno
from pathlib import Path
from typing import Final

from som_device_plugin.linux import cgroups, hugepages
from som_device_plugin.local import layout, programs

_LIMIT_FILES: Final = {
    1: ("limit_in_bytes", "rsvd.limit_in_bytes"),
    2: ("max", "rsvd.max"),
}


def root(state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> Path:
    """The group above those of all programs, beside the one above all leases."""
    som = hierarchy.som(state_dir.path)
    return som.with_name(f"{som.name}-pods")


class PodLimits:
    """The groups of the programs of one state directory."""

    def __init__(self, state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._root = root(state_dir, hierarchy)

    def create(self, pod: programs.Program) -> None:
        """Make the pod's group; raises CgroupError."""
        group = self._group(pod)
        self._hierarchy.create(group)
        for page_bytes in hugepages.page_sizes():
            for name in _LIMIT_FILES[self._hierarchy.version]:
                limit = group / f"hugetlb.{cgroups.size_name(page_bytes)}.{name}"
                limit.write_text("0", encoding="ascii")

    def joining(self, pod: programs.Program) -> str:
        """The file to which a process writes 0 to be in the pod's group."""
        return str(self._group(pod) / "cgroup.procs")

    def occupied(self, pod: programs.Program) -> bool:
        """Whether a process of the pod lives."""
        try:
            return bool((self._group(pod) / "cgroup.procs").read_text(encoding="ascii"))
        except OSError as error:
            # ENODEV: removed between opening and reading.
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def end_processes(self, pod: programs.Program) -> None:
        """Kill what the pod left, and wait for it; raises CgroupError after 10 s."""
        self._hierarchy.end_processes(self._group(pod))

    def remove(self, pod: programs.Program) -> None:
        """Remove the pod's empty group."""
        self._hierarchy.remove(self._group(pod))

    def _group(self, pod: programs.Program) -> Path:
        return self._root / pod.uid
