"""`som local up` and `som local down`: a pool on this machine, and its end."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Final

from som_api import v1alpha1
from som_device_plugin import SomError
from som_device_plugin.linux import cgroups, hugepages, mountinfo, mounts
from som_device_plugin.local import books, daemons, layout, orders, progress

FULL: Final = 0
FAILED: Final = 1
WRONG: Final = 2
PARTLY: Final = 3

RELEASE_TIMEOUT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.05
_LONGEST_STATE_DIR: Final = 107 - len("/kubelet/device-plugins/som-00000000.sock")
_OURS: Final = (
    *("somnode.json", "status.json", "pods.json", "local.lock"),
    *("agent.log", "agent.pid", "agent.runs", "agent.sock", "agent.lock"),
    *("kubelet.log", "kubelet.pid", "kubelet.runs"),
    *("som.db", "som.db-wal", "som.db-shm"),
)


class UnfitMachine(SomError):
    """This machine cannot have a pool; says what is missing and how to get it."""


class NotReleased(SomError):
    """The pool could not be given back; says what holds it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `up` achieved: one of FULL, FAILED, PARTLY, and why."""

    exit_code: int
    pool: str
    capacity_bytes: int
    wanted_bytes: int
    page_bytes: int
    seconds: float
    reason: str
    message: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        pages = self.capacity_bytes // self.page_bytes
        text = (
            f"pool {self.pool}: {v1alpha1.format_bytes(self.capacity_bytes)} of "
            f"{v1alpha1.format_bytes(self.wanted_bytes)} reserved, {pages} pages of "
            f"{v1alpha1.format_bytes(self.page_bytes)}, in {self.seconds:.2f} s"
        )
        return text if self.exit_code == FULL else f"{text}: {self.message}"


def up(pool: v1alpha1.SomPool, state_dir: layout.StateDir, *, quiet: bool) -> Outcome:
    """Have this machine reserve `pool`, in place of what an earlier `up` ordered.

    Raises:
        UnfitMachine: something that the machine lacks; nothing was changed.
        SomError: a process of local mode failed.
    """
    hierarchy = _check_machine(pool, state_dir)
    begun = time.monotonic()
    with _alone(state_dir):
        if not daemons.agent(state_dir).runs():
            # What an agent that is gone said is no answer to this order.
            state_dir.status.unlink(missing_ok=True)
        generation = orders.write(state_dir, pool, hierarchy)
        daemons.stand_in(state_dir).start()
        daemons.agent(state_dir).start()
        _wait_for_stand_in(state_dir)
        what = f"reserving {pool.metadata.name}"
        with progress.bar(what, pool.spec.capacity, quiet=quiet) as show:
            while (status := _settled(state_dir, generation, pool)) is None:
                show(_reserved_bytes(state_dir))
                time.sleep(LOOK_EVERY_S)
    ready = _ready(status)
    full = ready.status == "True"
    return Outcome(
        exit_code=FULL if full else PARTLY if status.capacity else FAILED,
        pool=pool.metadata.name,
        capacity_bytes=status.capacity,
        wanted_bytes=pool.spec.capacity,
        page_bytes=pool.spec.source.page_bytes,
        seconds=time.monotonic() - begun,
        reason=ready.reason,
        message=ready.message,
    )


def down(state_dir: layout.StateDir, *, force: bool, quiet: bool) -> None:
    """Give everything back and leave the machine as it was. Safe to repeat.

    Raises:
        NotReleased: programs run, or somebody still holds memory.
        SomError: a process of local mode failed.
    """
    if not (state_dir.orders.exists() or state_dir.kubelet.exists()):
        return
    _check_root()
    hierarchy = cgroups.find(mountinfo.read())
    with _alone(state_dir):
        daemons.stand_in(state_dir).start()
        _wait_for_stand_in(state_dir)
        _end_programs(state_dir, force=force)
        generation = orders.write(state_dir, None, hierarchy)
        daemons.agent(state_dir).start()
        held_bytes = _reserved_bytes(state_dir)
        deadline = time.monotonic() + RELEASE_TIMEOUT_S
        with progress.bar("giving back", held_bytes, quiet=quiet) as show:
            while not _released(state_dir, generation):
                if time.monotonic() > deadline:
                    raise NotReleased(_why_not_released(state_dir))
                show(held_bytes - _reserved_bytes(state_dir))
                time.sleep(LOOK_EVERY_S)
        daemons.agent(state_dir).stop()
        daemons.stand_in(state_dir).stop()
        _remove_traces(state_dir, hierarchy)


def _check_root() -> None:
    if os.geteuid() != 0:
        raise UnfitMachine("som local reserves memory of the machine: run it as root, with sudo")


def _check_machine(pool: v1alpha1.SomPool, state_dir: layout.StateDir) -> cgroups.Hierarchy:
    _check_root()
    if (state_dir.path / "som.db").exists() and not state_dir.orders.exists():
        raise UnfitMachine(
            f"{state_dir.path} belongs to the som-agent of a Kubernetes node; choose another "
            "--state-dir"
        )
    if len(os.fsencode(state_dir.path)) > _LONGEST_STATE_DIR:
        raise UnfitMachine(
            f"{state_dir.path} is too long for the sockets in it; choose a --state-dir of at most "
            f"{_LONGEST_STATE_DIR} bytes"
        )
    page_bytes = pool.spec.source.page_bytes
    sizes = hugepages.page_sizes()
    if page_bytes not in sizes:
        has = ", ".join(map(v1alpha1.format_bytes, sorted(sizes))) or "none"
        raise UnfitMachine(
            f"this kernel has no huge pages of {v1alpha1.format_bytes(page_bytes)}, only: {has}; "
            "choose another spec.source.hugeTLB.pageSize, or boot a kernel with CONFIG_HUGETLBFS "
            "on a processor that has them"
        )
    try:
        return cgroups.find(mountinfo.read())
    except cgroups.CgroupError as error:
        raise UnfitMachine(str(error)) from error


@contextlib.contextmanager
def _alone(state_dir: layout.StateDir) -> Iterator[None]:
    """One `up` or `down` at a time; the others wait. Makes the state directory."""
    while True:
        state_dir.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with state_dir.lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A `down` that we waited for has removed the file, and perhaps the directory.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), state_dir.lock.stat()):
                    yield
                    return


def _wait_for_stand_in(state_dir: layout.StateDir) -> None:
    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(state_dir.control_socket)) == 0

    daemons.stand_in(state_dir).wait_until(answers)


def _settled(
    state_dir: layout.StateDir, generation: int, pool: v1alpha1.SomPool
) -> v1alpha1.PoolStatus | None:
    """The pool's status once the agent has done what it can; None before."""
    status = books.read_status(state_dir)
    if status is not None and status.observed_generation == generation:
        for each in status.pools:
            if each.name == pool.metadata.name and _ready(each).reason != "Reserving":
                return each
    daemons.agent(state_dir).check()
    return None


def _ready(pool: v1alpha1.PoolStatus) -> v1alpha1.Condition:
    return next(condition for condition in pool.conditions if condition.type == "Ready")


def _reserved_bytes(state_dir: layout.StateDir) -> int:
    status = books.read_status(state_dir)
    return sum(pool.capacity for pool in status.pools) if status else 0


def _end_programs(state_dir: layout.StateDir, *, force: bool) -> None:
    names = [pod.name for pod in books.read_pods(state_dir)]
    if names and not force:
        raise NotReleased(
            f"programs run with som memory: {', '.join(names)}; end them, or use --force"
        )
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(state_dir.control_socket))
        control.sendall(b'{"end": "all"}\n')
        control.settimeout(RELEASE_TIMEOUT_S)
        control.recv(1)


def _released(state_dir: layout.StateDir, generation: int) -> bool:
    daemons.agent(state_dir).check()
    status = books.read_status(state_dir)
    return status is not None and status.observed_generation == generation and not status.pools


def _why_not_released(state_dir: layout.StateDir) -> str:
    status = books.read_status(state_dir)
    pools = status.pools if status else ()
    whys = [f"{pool.name}: {_ready(pool).message}" for pool in pools]
    return (
        f"not everything was given back within {RELEASE_TIMEOUT_S:.0f} s: "
        f"{'; '.join(whys) or 'the agent does not report'}; see "
        f"{daemons.agent(state_dir).log}, then run `som local down` again"
    )


def _remove_traces(state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
    """Mounts, cgroups, files: only what som made, never a tree that somebody else uses."""
    for mount in reversed(mountinfo.read()):
        if mount.mountpoint.is_relative_to(state_dir.path) and mount.fstype == "hugetlbfs":
            mounts.detach(str(mount.mountpoint))
    orders.remove_cgroups(state_dir, hierarchy)
    for directory in ("leases", "holds", "kubelet"):
        shutil.rmtree(state_dir.path / directory, ignore_errors=True)
    for name in _OURS:
        (state_dir.path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        state_dir.path.rmdir()
