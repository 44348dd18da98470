"""How kubelet is set up on this node, as far as huge pages depend on it. Reads, never writes.

Sources: pkg/kubelet/cm/memorymanager/state and pkg/kubelet/cm/cgroup_manager_linux.go of
Kubernetes.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Final

from som_device_plugin import SomError
from som_device_plugin.linux import cgroups, hugepages

STATE_FILE: Final = "memory_manager_state"

# kubelet names a pod's group by its UID: pod<uid> with the driver cgroupfs, and
# kubepods[-<QoS>]-pod<uid with _>.slice, after the names of the slices above, with systemd.
# A static pod's UID is a hash without dashes.
_POD: Final = re.compile(
    r"^(?:.*kubepods(?:-\w+)?-)?pod([0-9a-f]{32}|[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})"
    r"(?:\.slice)?$"
)
_ABOVE_PODS: Final = re.compile(r"^(?:.*-)?kubepods(?:\.slice)?$")
# v1 shows "no limit" as the largest number that is a multiple of a page; kubelet's own is 1 << 62.
_UNLIMITED: Final = 1 << 62
_LIMIT_FILES: Final = {1: "rsvd.limit_in_bytes", 2: "rsvd.max"}


@dataclasses.dataclass(frozen=True)
class Setup:
    """`static`: the memory manager's policy is Static, and kubelet counts on every huge page.

    `unlimited` are the UIDs of pods that may take huge pages they did not request.
    """

    static: bool = False
    unlimited: tuple[str, ...] = ()


def read(*, kubelet_dir: pathlib.Path, hierarchy: cgroups.Hierarchy) -> Setup:
    """What stands now; a node without a kubelet's files and groups is set up well.

    Raises:
        SomError: kubelet's file or a group cannot be read.
    """
    return Setup(
        static=memory_manager_policy(kubelet_dir) == "Static",
        unlimited=unlimited_pods(hierarchy, page_sizes=hugepages.page_sizes()),
    )


def memory_manager_policy(kubelet_dir: pathlib.Path) -> str:
    """The policy that kubelet was started with last: `None`, also without its file, or `Static`.

    Raises:
        SomError: the file cannot be read.
    """
    path = kubelet_dir / STATE_FILE
    try:
        return str(json.loads(path.read_bytes())["policyName"])
    except FileNotFoundError:
        return "None"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SomError(
            f"reading kubelet's memoryManagerPolicy from {path}: {error!r}; with Static no huge "
            "page may be reserved, so nothing is until the file can be read"
        ) from error


def unlimited_pods(hierarchy: cgroups.Hierarchy, *, page_sizes: Iterable[int]) -> tuple[str, ...]:
    """UIDs of pods that have no limit on reserving huge pages of a size, nor a group above them.

    Raises:
        SomError: a group cannot be read.
    """
    found = set()
    try:
        for group, uid in _pods(hierarchy.root, below_kubepods=False):
            if any(not _limited(hierarchy, group, page_bytes) for page_bytes in page_sizes):
                found.add(uid)
    except OSError as error:
        raise SomError(f"reading the pods' hugetlb limits in {hierarchy.root}: {error}") from error
    return tuple(sorted(found))


def _pods(group: pathlib.Path, *, below_kubepods: bool) -> Iterator[tuple[pathlib.Path, str]]:
    """The pods' groups and UIDs, wherever kubelet's cgroupRoot is."""
    try:
        children = [child for child in group.iterdir() if child.is_dir()]
    except FileNotFoundError:
        return
    for child in children:
        pod = _POD.match(child.name) if below_kubepods else None
        if pod:
            yield child, pod[1].replace("_", "-")
        else:
            below = below_kubepods or bool(_ABOVE_PODS.match(child.name))
            yield from _pods(child, below_kubepods=below)


def _limited(hierarchy: cgroups.Hierarchy, group: pathlib.Path, page_bytes: int) -> bool:
    """Whether `group` or one above it has a limit; a group that has gone has."""
    name = f"hugetlb.{cgroups.size_name(page_bytes)}.{_LIMIT_FILES[hierarchy.version]}"
    while group != hierarchy.root:
        try:
            limit = (group / name).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            # On v2 the controller may be switched off for a group: then those above decide.
            if not group.exists():
                return True
        else:
            if limit != "max" and int(limit) < _UNLIMITED:
                return True
        group = group.parent
    return False
