"""The place of a pool: a machine that can have one, and a state directory for it alone."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from som_api import v1alpha1
from som_device_plugin.linux import cgroups, hugepages, modules, mountinfo, mounts
from som_device_plugin.local import Wrong, layout, orders
from som_device_plugin.local.command import background, output
from som_device_plugin.local.stand_in import limits

_LONGEST_STATE_DIR: Final = 107 - len("/kubelet/device-plugins/som-00000000.sock")
_OUR_DIRECTORIES: Final = ("cdi", "leases", "holds", "kubelet")
_OUR_FILES: Final = (
    *("local.lock", "somnode.json", "status.json", "pods.json"),
    *("agent.log", "agent.sock", "agent.lock", "kubelet.log", "kubelet.lock"),
    *("som.db", "som.db-wal", "som.db-shm"),
    *("agent.pid", "agent.runs", "kubelet.pid", "kubelet.runs"),  # of som 0.1.0
)
_OUR_REMAINS: Final = ".*.json.*"
"""What a process that was killed while it replaced a file has left."""


def check_machine(pool: v1alpha1.SomPool, state_dir: layout.StateDir) -> cgroups.Hierarchy:
    """Where its hugetlb controller is; raises Wrong where the machine cannot have `pool`."""
    check_state_dir(state_dir.path)
    if pool.spec.driver_type == "Kernel" and modules.loaded("som") is None:
        raise Wrong(
            "som.ko is not loaded, and spec.driver.type Kernel needs it: build and load it as "
            "driver/README.md says, or use source hugeTLB with driver HugeTLBFS"
        )
    if pool.spec.source.kind == "HugeTLB":
        _check_pages(pool.spec.source.page_bytes)
    return hierarchy()


def _check_pages(page_bytes: int) -> None:
    sizes = hugepages.page_sizes()
    if page_bytes not in sizes:
        has = ", ".join(map(v1alpha1.format_bytes, sorted(sizes))) or "none"
        raise Wrong(
            f"this kernel has no huge pages of {v1alpha1.format_bytes(page_bytes)}, only: {has}; "
            "choose another spec.source.hugeTLB.pageSize, or boot a kernel with CONFIG_HUGETLBFS "
            "on a processor that has them"
        )


def check_state_dir(path: Path) -> None:
    """`down` removes what is som's in it, so it must be som's alone."""
    if len(os.fsencode(path)) > _LONGEST_STATE_DIR:
        raise Wrong(
            f"{path} is too long for the sockets in it; choose a --state-dir of at most "
            f"{_LONGEST_STATE_DIR} bytes"
        )
    is_there = path.exists()
    if is_there and not (path / "local.lock").exists():
        if (path / "som.db").exists():
            raise Wrong(
                f"{path} belongs to the som-agent of a Kubernetes node; choose another --state-dir"
            )
        others = sorted(each.name for each in set(path.iterdir()) - set(path.glob(_OUR_REMAINS)))
        if others:
            raise Wrong(
                f"{path} is in use ({', '.join(others[:3])}); choose a --state-dir that is empty "
                "or not there yet"
            )
    disk = shutil.disk_usage(path if is_there else path.parent)
    # Places like /proc have no size at all.
    if disk.total and disk.free < background.ROOM_BYTES:
        raise Wrong(
            f"the disk of {path} has only {disk.free} bytes free; make room, at least "
            f"{background.ROOM_BYTES} bytes, or choose another --state-dir"
        )


def hierarchy() -> cgroups.Hierarchy:
    """The machine's hugetlb controller; raises Wrong without one."""
    try:
        return cgroups.find(mountinfo.read())
    except cgroups.CgroupError as error:
        raise Wrong(str(error)) from error


@contextlib.contextmanager
def alone(state_dir: layout.StateDir, out: output.Output) -> Iterator[None]:
    """One `up` or `down` at a time; the others wait. Makes the state directory."""
    while True:
        try:
            state_dir.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Wrong(
                f"making {state_dir.path}: {error.strerror}; choose another --state-dir"
            ) from error
        # In a directory like /tmp somebody else may have been faster.
        layout.find(state_dir.path)
        state_dir.path.chmod(0o700)
        with state_dir.lock.open("ab") as file:
            _lock(file, state_dir, out)
            # A `down` that we waited for has removed the file, and perhaps the directory.
            if _is_still(state_dir.lock, file):
                yield
                return


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, state_dir: layout.StateDir, out: output.Output) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    out.note(f"another `som local up` or `down` works in {state_dir.path}; waiting for its end")
    fcntl.flock(file, fcntl.LOCK_EX)


def remove_traces(state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
    """Mounts, cgroups, files: only what som made, never a tree that somebody else uses."""
    for mount in reversed(mountinfo.read()):
        if mount.mountpoint.is_relative_to(state_dir.path) and mount.fstype == "hugetlbfs":
            mounts.detach(str(mount.mountpoint))
    remove_cgroups(state_dir, hierarchy)
    for directory in _OUR_DIRECTORIES:
        shutil.rmtree(state_dir.path / directory, ignore_errors=True)
    for path in (*map(state_dir.path.joinpath, _OUR_FILES), *state_dir.path.glob(_OUR_REMAINS)):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        state_dir.path.rmdir()


def remove_cgroups(state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
    """Remove the groups of leases and programs, and leave the controller as it was found."""
    for root in (hierarchy.som(state_dir.path), limits.root(state_dir, hierarchy)):
        for group in sorted(root.rglob("*/"), reverse=True):
            hierarchy.remove(group)
        hierarchy.remove(root)
    # A group of somebody else would lose its limits with the controller.
    limits_of_others = hierarchy.root.glob("*/hugetlb.*.max")
    if orders.controller_was_off(state_dir) and all(
        limit.read_text().strip() == "max" for limit in limits_of_others
    ):
        # Refused where others have switched it on further below; then it stays on.
        with contextlib.suppress(OSError):
            (hierarchy.root / "cgroup.subtree_control").write_text("-hugetlb", encoding="ascii")
