"""The hugetlb cgroups of som: one per start of a lease, one per hold.

`<root>/<som>/pool-<name>/hold` and `.../<slot number>`, in whichever hierarchy has the hugetlb
controller (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/hugetlb.rst). Charges are taken
away by the kernel in the step that frees the page: they alone say who holds memory.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Final

from som_api import SomError
from som_device_plugin import seams
from som_device_plugin.linux import hugepages, mountinfo

DEFAULT_STATE_DIR: Final = pathlib.Path("/var/lib/som")
_END_TIMEOUT_S: Final = 10.0
_SOM: Final = re.compile("som(-[0-9a-f]{8})?")
_V1_TO_LEAVE: Final = frozenset({"cpuset", "cpu", "memory"})


class CgroupError(SomError):
    """The machine has no hugetlb controller, or refused what was asked of it."""


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Where the hugetlb controller is. `others` are roots that a worker has to move to as well.

    (On v1, cpuset, cpu and memory limits of the agent's container would bind its workers.)
    """

    root: pathlib.Path
    version: int
    others: tuple[pathlib.Path, ...]

    def som(self, state_dir: pathlib.Path) -> pathlib.Path:
        """The group above all of som's: `som`, and another for each other state directory."""
        if state_dir == DEFAULT_STATE_DIR:
            return self.root / "som"
        digest = hashlib.sha256(bytes(state_dir)).hexdigest()
        return self.root / f"som-{digest[:8]}"

    def pool(self, state_dir: pathlib.Path, pool: str) -> pathlib.Path:
        """The group of a pool: its hold and slots, and nothing else, are charged below it."""
        return self.som(state_dir) / f"pool-{pool}"

    def create(self, group: pathlib.Path) -> None:
        """Make `group` (below the root) with the controller in it. Idempotent."""
        if group.is_dir():
            return
        path = self.root
        try:
            for part in group.relative_to(self.root).parts:
                if self.version == 2:
                    (path / "cgroup.subtree_control").write_text("+hugetlb")
                path /= part
                path.mkdir(exist_ok=True)
        except OSError as error:
            raise CgroupError(
                f"making the cgroup {path}: {error.strerror}; the agent needs the host's "
                "/sys/fs/cgroup, writable"
            ) from error

    @property
    def leaving(self) -> list[str]:
        """The files to which a process writes 0 to be free of other limits."""
        return [str(path / "cgroup.procs") for path in self.others]

    def joining(self, group: pathlib.Path) -> list[str]:
        """The files to which a process writes 0 to be in `group` and free of other limits."""
        return [*self.leaving, str(group / "cgroup.procs")]

    def charge(self, group: pathlib.Path, page_bytes: int) -> seams.Usage:
        """What `group` and its children hold; nothing where it does not exist."""
        prefix = f"hugetlb.{size_name(page_bytes)}."
        current, reserved = (
            ("current", "rsvd.current")
            if self.version == 2
            else ("usage_in_bytes", "rsvd.usage_in_bytes")
        )
        try:
            return seams.Usage(
                current_bytes=int((group / (prefix + current)).read_text()),
                reserved_bytes=int((group / (prefix + reserved)).read_text()),
            )
        except FileNotFoundError:
            if group.exists():
                raise CgroupError(
                    f"the cgroup {group} has no {prefix}{reserved}: Linux 5.7 or newer with huge "
                    f"pages of {size_name(page_bytes)} is needed"
                ) from None
            if not (self.root / "cgroup.procs").exists():
                raise CgroupError(
                    f"the cgroup hierarchy at {self.root} is gone, and only it can tell who holds "
                    "huge pages; mount it again"
                ) from None
            return seams.Usage(current_bytes=0, reserved_bytes=0)

    def slots(self, group: pathlib.Path) -> dict[int, pathlib.Path]:
        """The slots in a pool's group: number -> group."""
        return {int(path.name): path for path in group.glob("[0-9]*")}

    def neighbours_bytes(self, state_dir: pathlib.Path, page_bytes: int) -> int:
        """What pools of other state directories have, whichever agent of the machine they obey.

        Holds and slots one by one: one of them may have pages only in use, the next only reserved.
        """
        own = self.som(state_dir)
        return sum(
            self.charge(group, page_bytes).held_bytes
            for group in self.root.glob("som*/pool-*/*/")
            if own not in group.parents and _SOM.fullmatch(group.parent.parent.name)
        )

    def empty(self, group: pathlib.Path) -> bool:
        """Whether `group` holds no huge page of any size."""
        return all(self.charge(group, size).free for size in hugepages.page_sizes())

    def node_bytes(self, group: pathlib.Path, page_bytes: int) -> dict[int, int]:
        """NUMA node -> bytes in use of `group`, nodes without any left out (Linux 5.16)."""
        file = group / f"hugetlb.{size_name(page_bytes)}.numa_stat"
        # v1 has a second line, hierarchical_total.
        fields = file.read_text().splitlines()[0].split()[1:]
        by_node = (field.removeprefix("N").split("=") for field in fields)
        return {int(node): int(value) for node, value in by_node if value != "0"}

    def remove(self, group: pathlib.Path) -> None:
        """Remove `group`, which must hold nothing: rmdir would move its charge to the parent."""
        try:
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()
        except OSError as error:
            raise CgroupError(f"removing the cgroup {group}: {error.strerror}") from error

    def remove_pool(self, pool: pathlib.Path) -> None:
        """Remove the group of a pool, with its hold and slots, and `som` after the last one."""
        for group in (pool / "hold", *self.slots(pool).values(), pool):
            self.remove(group)
        if not any(pool.parent.glob("pool-*")):
            self.remove(pool.parent)

    def end_processes(self, group: pathlib.Path) -> None:
        """End all processes in `group` and below, and wait until they are gone."""
        deadline = time.monotonic() + _END_TIMEOUT_S
        while processes := list(_processes(group)):
            if time.monotonic() > deadline:
                raise CgroupError(
                    f"processes {processes} in {group} did not end within {_END_TIMEOUT_S:.0f} s "
                    "of SIGKILL; see their state in ps"
                )
            # 0 stands for one of another PID namespace; to kill(2), for the agent itself.
            for process in filter(None, processes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.005)


def find(mounts: Sequence[mountinfo.Mount]) -> Hierarchy:
    """The machine's hugetlb hierarchy, of v2 or v1.

    Raises:
        CgroupError: there is none, with the cure.
    """
    unified = [
        mount.mountpoint
        for mount in mounts
        # Only the root of the real hierarchy, not a container's part of it, lacks cgroup.type.
        if mount.fstype == "cgroup2" and not (mount.mountpoint / "cgroup.type").exists()
        # Another mount may cover it.
        if (mount.mountpoint / "cgroup.controllers").exists()
    ]
    legacy = [
        mount
        for mount in mounts
        if mount.fstype == "cgroup" and (mount.mountpoint / "release_agent").exists()
    ]
    to_leave = {m.device: m.mountpoint for m in legacy if m.super_options & _V1_TO_LEAVE}.values()
    for root in unified:
        if "hugetlb" in (root / "cgroup.controllers").read_text().split():
            return Hierarchy(root=root, version=2, others=tuple(to_leave))
    for mount in legacy:
        if "hugetlb" in mount.super_options:
            return Hierarchy(root=mount.mountpoint, version=1, others=(*unified[:1], *to_leave))
    raise CgroupError(
        "no cgroup hierarchy with the hugetlb controller is mounted, and only it can tell when "
        "memory is free again; on cgroup v1: mkdir -p /sys/fs/cgroup/hugetlb && mount -t cgroup "
        "-o hugetlb none /sys/fs/cgroup/hugetlb; else see `grep hugetlb /proc/cgroups` and the "
        "kernel's command line (cgroup_disable=), and give the agent the host's /sys/fs/cgroup"
    )


def size_name(page_bytes: int) -> str:
    """The kernel's name of a page size in file names of cgroups: `2MB`, `1GB`."""
    for suffix, factor in (("GB", 2**30), ("MB", 2**20)):
        if page_bytes % factor == 0:
            return f"{page_bytes // factor}{suffix}"
    return f"{page_bytes // 1024}KB"


def _processes(group: pathlib.Path) -> Iterator[int]:
    for file in group.rglob("cgroup.procs"):
        with contextlib.suppress(FileNotFoundError, OSError):
            yield from map(int, file.read_text().split())
