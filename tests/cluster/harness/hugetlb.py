"""Huge pages of the machine: one user at a time, the controller in v1, and everything given back.

kubelet and runc look for the hugetlb controller in the hierarchy that they use. On a machine with
cgroup v1 beside an empty v2 it sits in v2, and pods would get no huge page limit at all; on a
production node they get 0. So it is mounted as a v1 hierarchy while the cluster is up. The kernel
moves a controller only while it has no cgroups but the root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.harness.errors import ClusterError, run, wait_until
from cluster.harness.namespaces import Namespaces

LOCK = Path("/run/lock/som-hugepages.lock")
CGROUPS = Path("/sys/fs/cgroup")
V1 = CGROUPS / "hugetlb"
CGROUP_ROOT = "kubelet-of-som-test"
"""kubelet's root, in every hierarchy."""
_PIDFD_GETFD = 438
"""A number of the kernel's table that all architectures share (syscall_64.tbl)."""


def take_lock(lock: Path = LOCK) -> int:
    """Wait for the machine-wide lock of everybody who tests with huge pages; return its file.

    Or for another `lock`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(
            f"waiting for {lock}: other tests use what it is about, or a cluster that was left up "
            "(`make cluster-down` ends it)",
            flush=True,
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def share_lock(pid: int, lock: Path = LOCK) -> int:
    """The lock that a process holds, for us too: nobody gets it before we have cleaned up."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if link.readlink() == lock:
            process = os.pidfd_open(pid)
            shared = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, int(link.name), 0)
            os.close(process)
            if shared >= 0:
                return int(shared)
    raise ClusterError(f"process {pid} holds no {lock}")


def hierarchies() -> list[Path]:
    """The mounted cgroup hierarchies: several where v1 is in use, else the one of v2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return sorted(path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())


def remember_pages(file: Path) -> None:
    """Write down how many huge pages the machine has, for `give_back`."""
    counters = Path("/sys/devices/system/node").glob("node*/hugepages/*/nr_hugepages")
    counts = {str(path): int(path.read_text()) for path in sorted(counters)}
    file.write_text(json.dumps(counts))


def give_back_pages(file: Path) -> None:
    """Make the counts what they were; nothing where nothing was remembered."""
    if not file.exists():
        return
    for path, count in json.loads(file.read_text()).items():
        counter = Path(path)

        def restored(counter: Path = counter, count: int = count) -> bool:
            if int(counter.read_text()) != count:
                counter.write_text(str(count))
            return int(counter.read_text()) == count

        wait_until(f"{path} to be {count} again", restored, deadline_s=30)


def added_pages(file: Path) -> int:
    """How many huge pages, of whatever size, the machine has more than was remembered."""
    remembered: dict[str, int] = json.loads(file.read_text())
    return sum(int(Path(path).read_text()) - count for path, count in remembered.items())


def mount_controller(namespaces: Namespaces) -> None:
    """Mount hugetlb as a v1 hierarchy inside; nothing to do on a machine with cgroup v2 only."""
    if hierarchies() == [CGROUPS]:
        return
    V1.mkdir(exist_ok=True)

    def mounted() -> bool:
        _remove_som(CGROUPS / "unified")
        namespaces.run(["mount", "-t", "cgroup", "-o", "hugetlb", "hugetlb", V1])
        return True

    wait_until("the hugetlb controller to leave v2", mounted, deadline_s=60)


def remove_cgroups() -> None:
    """Remove the cgroups of a cluster whose processes have ended; the controller goes to v2.

    It stays where another test, which waits for its turn, has the v1 hierarchy mounted.
    """

    def back() -> bool:
        # A v1 hierarchy ends with its last mount, but not while the kernel still frees cgroups
        # that were removed a moment ago: so it is mounted and unmounted again.
        with _hugetlb_mounted() as hugetlb:
            for hierarchy in [*hierarchies(), *hugetlb]:
                _remove_tree(hierarchy / CGROUP_ROOT)
                _remove_som(hierarchy)
        unified = CGROUPS / "unified" / "cgroup.controllers"
        at_home = not unified.exists() or "hugetlb" in unified.read_text().split()
        return at_home or _mounted_elsewhere()

    wait_until("the hugetlb controller to be back in v2", back, deadline_s=60)
    with contextlib.suppress(OSError):
        V1.rmdir()


def _remove_som(hierarchy: Path) -> None:
    """Remove som's groups that hold nothing: ours, and what killed tests have left."""
    for group in hierarchy.glob("som*"):
        if (group / "cgroup.procs").exists() and not any(
            (Path(path) / "cgroup.procs").read_text()
            or any(file.read_text() != "0\n" for file in Path(path).glob("hugetlb.*.current"))
            or any(file.read_text() != "0\n" for file in Path(path).glob("hugetlb.*.usage*"))
            for path, _, _ in os.walk(group)
        ):
            _remove_tree(group)


def _mounted_elsewhere() -> bool:
    """Whether some other test's mount namespace uses the v1 hierarchy too."""
    for mounts in Path("/proc").glob("[0-9]*/mounts"):
        with contextlib.suppress(OSError):
            if any(
                line.split()[2] == "cgroup" and "hugetlb" in line.split()[3].split(",")
                for line in mounts.read_text().splitlines()
            ):
                return True
    return False


@contextlib.contextmanager
def _hugetlb_mounted() -> Iterator[list[Path]]:
    """The v1 hierarchy, mounted for us, where the kernel still has one."""
    lines = Path("/proc/cgroups").read_text().splitlines()
    line = next(line for line in lines if "hugetlb" in line)
    if line.split()[1] == "0" or hierarchies() == [CGROUPS]:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="som-hugetlb-") as folder:
        run(["mount", "-t", "cgroup", "-o", "hugetlb", "hugetlb", folder])
        try:
            yield [Path(folder)]
        finally:
            run(["umount", folder])


def _remove_tree(root: Path) -> None:
    """rmdir bottom-up; a cgroup stays busy for a moment after its last process has ended."""
    if not root.is_dir():
        return
    folders = [Path(path) for path, _, _ in os.walk(root, topdown=False)]

    def removed() -> bool:
        for folder in folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ClusterError(f"rmdir {folder}: {error}") from error
        return True

    wait_until(f"{root} to be empty", removed, deadline_s=30)
