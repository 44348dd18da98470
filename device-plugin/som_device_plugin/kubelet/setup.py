"""How kubelet is set up on this node, as far as huge pages depend on it. Reads, never writes.

Sources: pkg/kubelet/cm/memorymanager/state and pkg/kubelet/cm/cgroup_manager_linux.go of
Kubernetes.
"""

import collections
import dataclasses
import errno
import itertools
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Final

from som_api import SomError, v1alpha1
from som_device_plugin.linux import cgroups, hugepages

log = logging.getLogger(__name__)

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
_DEEPEST: Final = 16
_MOST_GROUPS: Final = 20_000
_LIMIT_FILES: Final = {1: "rsvd.limit_in_bytes", 2: "rsvd.max"}


@dataclasses.dataclass(frozen=True)
class Blocked:
    """Why nothing may be reserved or given back: a reason in CamelCase, and the cure.

    `sources` are those that it holds for; None: for all.
    """

    reason: str
    message: str
    sources: frozenset[v1alpha1.SourceKind] | None = None

    def holds_for(self, source: v1alpha1.SourceKind) -> bool:
        return self.sources is None or source in self.sources


STATIC: Final = Blocked(
    "MemoryManagerStatic",
    "kubelet's memoryManagerPolicy is Static: kubelet would not start again once the number of "
    "huge pages or the memory of a NUMA node has changed, so no page is reserved or given back, "
    "and none carved. Drain the node, stop kubelet, set memoryManagerPolicy: None, delete "
    "memory_manager_state in kubelet's directory and start kubelet: som goes on by itself. Pools "
    "of source external or devDax work with Static, too",
    sources=frozenset({"HugeTLB", "Carved"}),
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """`blocked`: why kubelet's set-up forbids that pools change, or some of them.

    `unlimited` are the UIDs of pods that may take huge pages they did not request.
    """

    blocked: Blocked | None = None
    unlimited: tuple[str, ...] = ()

    @property
    def is_kubelet_found(self) -> bool:
        """Whether kubelet can be asked which container starts."""
        return self.blocked is None or self.blocked.reason == STATIC.reason


@dataclasses.dataclass(frozen=True)
class Directories:
    """Where kubelet's files are: `root` is its --root-dir, `plugins` does not move with that."""

    plugins: pathlib.Path
    root: pathlib.Path

    @property
    def registration_socket(self) -> pathlib.Path:
        return self.plugins / "kubelet.sock"

    @property
    def pod_resources_socket(self) -> pathlib.Path:
        return self.root / "pod-resources" / "kubelet.sock"

    @property
    def memory_manager_state(self) -> pathlib.Path:
        return self.root / STATE_FILE


def read(directories: Directories, *, hierarchy: cgroups.Hierarchy) -> Setup:
    """What stands now.

    Raises:
        SomError: kubelet's file or a group cannot be read.
    """
    return Setup(
        blocked=blocked(directories),
        unlimited=unlimited_pods(hierarchy, page_sizes=hugepages.page_sizes()),
    )


def blocked(directories: Directories) -> Blocked | None:
    """Why kubelet forbids that the number of huge pages changes, or may forbid it.

    A running kubelet always has its state file: absence says only that it is somewhere else.

    Raises:
        SomError: the file cannot be read.
    """
    policy = memory_manager_policy(directories.memory_manager_state)
    if policy == "Static":
        return STATIC
    wanted = [directories.memory_manager_state]
    if directories.registration_socket.exists():
        # Else kubelet is down or starting, and has no socket at all.
        wanted.append(directories.pod_resources_socket)
    missing = " and ".join(str(path) for path in wanted if not path.exists())
    if not missing:
        return None
    return Blocked(
        "KubeletNotFound",
        f"{missing}: not there, so nobody can tell kubelet's memoryManagerPolicy or which "
        "container starts, and no huge page is reserved, given back or handed out. Where kubelet "
        "runs with another --root-dir, give the agent that directory: --kubelet-root-dir, in the "
        "chart agent.kubeletRootDir",
    )


def memory_manager_policy(path: pathlib.Path) -> str:
    """The policy that kubelet was started with last, by its state file: "" without the file.

    Raises:
        SomError: the file cannot be read.
    """
    try:
        return str(json.loads(path.read_bytes())["policyName"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SomError(
            f"reading kubelet's memoryManagerPolicy from {path}: {error!r}; with Static "
            "nobody may reserve huge pages, so the agent reserves none until it can read the file"
        ) from error


def unlimited_pods(hierarchy: cgroups.Hierarchy, *, page_sizes: Iterable[int]) -> tuple[str, ...]:
    """UIDs of pods that have no limit on reserving huge pages of a size, nor a group above them.

    Raises:
        SomError: a group cannot be read.
    """
    found = set()
    try:
        for group, uid in _pods(hierarchy.root):
            if any(not _limited(hierarchy, group, page_bytes) for page_bytes in page_sizes):
                found.add(uid)
    except OSError as error:
        raise SomError(f"reading the pods' hugetlb limits in {hierarchy.root}: {error}") from error
    return tuple(sorted(found))


def _pods(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """The pods' groups and UIDs, wherever kubelet's cgroupRoot is.

    Within limits, and not in groups that were given away (systemd gives user@1000.service to user
    1000): there anybody makes groups, as many, as deep and of whatever names he likes.
    """
    owner = root.stat().st_uid
    waiting, left = collections.deque([(root, 0, False)]), _MOST_GROUPS
    while waiting:
        group, depth, is_kubelets = waiting.popleft()
        children = _children(group, owner=owner, most=left) if depth < _DEEPEST else []
        left -= len(children)
        for child in children:
            pod = _POD.match(child.name) if is_kubelets else None
            if pod:
                yield child, pod[1].replace("_", "-")
            elif is_kubelets or _ABOVE_PODS.match(child.name):
                # Before all others, however many they are.
                waiting.appendleft((child, depth + 1, True))
            else:
                waiting.append((child, depth + 1, False))
        if not left:
            log.warning("more than %d cgroups; not all were looked at", _MOST_GROUPS)
            return


def _children(group: pathlib.Path, *, owner: int, most: int) -> list[pathlib.Path]:
    try:
        with os.scandir(group) as entries:
            found = (entry.path for entry in entries if entry.is_dir() and _owner(entry) == owner)
            return [pathlib.Path(path) for path in itertools.islice(found, most)]
    except FileNotFoundError:
        return []


def _owner(entry: os.DirEntry[str]) -> int:
    """-1 for one that has gone."""
    try:
        return entry.stat().st_uid
    except FileNotFoundError:
        return -1


def _limited(hierarchy: cgroups.Hierarchy, group: pathlib.Path, page_bytes: int) -> bool:
    """Whether `group` or one above it has a limit; a group that has gone has."""
    name = f"hugetlb.{cgroups.size_name(page_bytes)}.{_LIMIT_FILES[hierarchy.version]}"
    while group != hierarchy.root:
        try:
            limit = (group / name).read_text(encoding="ascii").strip()
        except OSError as error:
            # ENODEV: the group went between open and read.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            # On v2 the controller may be switched off for a group: then those above decide.
            if not group.exists():
                return True
        else:
            if limit != "max" and int(limit) < _UNLIMITED:
                return True
        group = group.parent
    return False
