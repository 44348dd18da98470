"""What a test of this tier may not leave behind: huge pages, mounts, cgroups, processes."""

import contextlib
import ctypes
import dataclasses
import fcntl
import mmap
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from som_device_plugin.linux import cgroups, hugepages, mountinfo, mounts

# The machine has one set of huge pages: all test runs of all checkouts take turns.
LOCK: Final = pathlib.Path("/run/lock/som-hugepages.lock")
_CLONE_NEWNS: Final = 0x20000
_MAP_HUGETLB: Final = 0x40000
PAGE: Final = 2 * 2**20


def wait_until(
    condition: Callable[[], object],
    *,
    what: str,
    deadline_s: float = 60.0,
    every_s: float = 0.005,
    then: Callable[[], str] = str,
) -> None:
    """Until `condition()`; after the deadline it fails with `what`, and what is so `then`."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}: {then()}"
        time.sleep(every_s)


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """The machine's huge pages for this process alone, unless its starter has them already."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    if _locked_by_ancestor():
        yield
        return
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def huge_memory(pages: int) -> mmap.mmap:
    """So many huge pages in use by this process, and not by those that it forks (`vm.forked`).

    An agent that was forked meanwhile would use them until it ends, whoever closes this.
    """
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_HUGETLB | mmap.MAP_POPULATE
    memory = mmap.mmap(-1, pages * PAGE, flags=flags)
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


def _locked_by_ancestor() -> bool:
    """flock(1) has the file open while its command runs."""
    process = os.getpid()
    while process > 1:
        fds = pathlib.Path(f"/proc/{process}/fd")
        if any(os.path.realpath(fd) == str(LOCK) for fd in fds.iterdir()):
            return True
        status = pathlib.Path(f"/proc/{process}/stat").read_text()
        process = int(status.rpartition(")")[2].split()[1])
    return False


def own_mount_namespace() -> None:
    """From now on mounts of this process are its own, and end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def mount_v1(directory: pathlib.Path) -> None:
    """Mount the hugetlb controller's v1 hierarchy, which takes it out of v2."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "cgroup", "-o", "hugetlb", "none", directory], check=True)


@contextlib.contextmanager
def controller_in(version: str, directory: pathlib.Path) -> Iterator[None]:
    """The hugetlb controller in the hierarchy of `version` (`v1` or `v2`); skips if it is kept."""
    found = cgroups.find(mountinfo.read())
    if version == f"v{found.version}":
        yield
    elif version == "v1":
        _take_out_of_v2(found.root)
        mount_v1(directory)
        try:
            yield
        finally:
            # Unmounted before its removed cgroups are gone for good, it would be in neither.
            wait_until(lambda: _hugetlb_groups() == 1, what="the v1 cgroups are gone")
            subprocess.run(["umount", directory], check=True)
            control = found.root / "cgroup.controllers"
            wait_until(lambda: "hugetlb" in control.read_text(), what="v2 has the controller")
    else:
        pytest.skip("another process of this machine keeps the hugetlb controller in v1")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What is on the machine, as far as som and the test of `state_dir` are concerned."""

    state_dir: pathlib.Path
    pages: tuple[tuple[int, int, hugepages.NodeCounts, hugepages.MachineCounts], ...]
    mounts: frozenset[tuple[str, str]]
    groups: frozenset[str]
    children: frozenset[int]

    @classmethod
    def take(cls, state_dir: pathlib.Path) -> "Snapshot":
        """What is there now."""
        return cls(
            state_dir=state_dir,
            pages=tuple(
                (size, node, hugepages.node_counts(size, node), hugepages.machine_counts(size))
                for size in sorted(hugepages.page_sizes())
                for node in hugepages.nodes()
            ),
            mounts=frozenset(
                (str(mount.mountpoint), mount.source)
                for mount in mountinfo.read()
                if mount.fstype == "hugetlbfs" or state_dir.parent in mount.mountpoint.parents
            ),
            groups=frozenset(map(str, _groups(state_dir))),
            children=frozenset(_children()),
        )

    def difference(self) -> str:
        """What is not as it was, now; "" when everything is."""
        now = Snapshot.take(self.state_dir)
        return "\n".join(
            f"{field.name}: was {getattr(self, field.name)}, is {getattr(now, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(now, field.name)
        )

    def restore(self) -> None:
        """After a test that left something: take it away, so that the next one starts clean."""
        for process in set(_children()) - self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        left = [path for path in _groups(self.state_dir) if str(path) not in self.groups]
        for group in left:
            cgroups.find(mountinfo.read()).end_processes(group)
        for mount in reversed(mountinfo.read()):
            ours = mount.fstype == "hugetlbfs" or self.state_dir.parent in mount.mountpoint.parents
            if ours and (str(mount.mountpoint), mount.source) not in self.mounts:
                with contextlib.suppress(OSError):
                    mounts.detach(str(mount.mountpoint))
        for page_bytes, node, counts, _ in self.pages:
            hugepages.write_persistent(page_bytes, node, counts.persistent)
        for group in left:
            for path in sorted(group.rglob("*/"), reverse=True):
                path.rmdir()
            group.rmdir()


def _groups(state_dir: pathlib.Path) -> list[pathlib.Path]:
    hierarchy = cgroups.find(mountinfo.read())
    return list(hierarchy.root.glob(hierarchy.som(state_dir).name + "*"))


def _take_out_of_v2(root: pathlib.Path) -> None:
    control = root / "cgroup.subtree_control"
    wait_until(lambda: not _own_dying(root), what="removed cgroups are gone for good")
    if any(path.is_dir() for path in root.iterdir()):
        pytest.skip("another process of this machine has cgroups with the controller in v2")
    control.write_text("-hugetlb")


def _own_dying(root: pathlib.Path) -> bool:
    return "nr_dying_descendants 0" not in (root / "cgroup.stat").read_text()


def _hugetlb_groups() -> int:
    lines = pathlib.Path("/proc/cgroups").read_text().splitlines()
    return next(int(line.split()[2]) for line in lines if line.startswith("hugetlb"))


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[1]) == own:
                found.append(int(path.parent.name))
    return found
