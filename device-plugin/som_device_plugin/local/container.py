"""A program in namespaces of its own: what a container runtime does for a pod, and no more.

Its /dev is new and has /dev/som; leases of others and the state directory are not in its tree;
/sys and /proc/sys are read-only; it sees no processes but its own. Its capabilities are those a
runtime leaves to a container, or none for another user. Nothing slow is imported.
"""

import ctypes
import dataclasses
import errno
import os
import signal
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from som_device_plugin.linux import mountinfo, mounts
from som_device_plugin.local import terminal, users

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWPID: Final = 0x20000000
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_REMOUNT: Final = 32
_MS_BIND: Final = 4096
_MS_MOVE: Final = 8192
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18
_FLAGS: Final = {
    **dict.fromkeys(("bind", "rw", "rprivate"), 0),
    "nosuid": _MS_NOSUID,
    "nodev": _MS_NODEV,
    "noexec": _MS_NOEXEC,
}
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_SI_KERNEL: Final = 0x80

_NODES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_ROOT_CAPABILITIES: Final = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31})
"""What containerd leaves to root (linux/capability.h), without MKNOD: CHOWN, DAC_OVERRIDE, FOWNER,
FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, AUDIT_WRITE, SETFCAP.
"""
_SIGNALS: Final = frozenset(
    {
        *(signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        *(signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    }
)
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126


@dataclasses.dataclass(frozen=True)
class Container:
    """A program and its surroundings.

    `edits` are what CDI adds: `env`, and `mounts` and `deviceNodes` below the program's /dev.
    `staging` is a directory in `hidden` that no source of these mounts is below.
    """

    command: Sequence[str]
    edits: Mapping[str, Any]
    cgroup: str
    hidden: Path
    staging: Path
    user: users.User | None


def run(container: Container) -> int:
    """Run the program to its end: its exit status, or 128 + the signal that ended it.

    Signals sent to this process reach the program; should this process die, so does the program.
    Must be called without other threads, as root.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _check(_libc.unshare(_CLONE_NEWPID), "making a pid namespace")
    return _wait_for(_fork(lambda: _first_process(container)))


def _first_process(container: Container) -> int:
    """Pid 1 of the program's namespace: sets it up, starts the program, reaps orphans."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    Path(container.cgroup).write_text("0", encoding="ascii")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _enter_mount_namespace(container)
    return _wait_for(_fork(lambda: _program(container)))


def _program(container: Container) -> int:
    _drop_privileges(container.user)
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    name = container.command[0]
    try:
        login = container.user.env if container.user else {}
        ours = dict(each.split("=", 1) for each in container.edits["env"])
        env = {**os.environ, **login, **ours}
        os.execvpe(name, list(container.command), env)
    except OSError as error:
        print(f"som local run: {name}: {error.strerror}", file=sys.stderr)
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE


def _fork(body: Callable[[], int]) -> int:
    """A child that runs `body` and ends with its result, whatever happens."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        status = body()
    except Exception as error:
        print(f"som local run: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait_for(child: int) -> int:
    while True:
        got = signal.sigwaitinfo(_SIGNALS)
        if got.si_signo != signal.SIGCHLD:
            # A key of the terminal reaches all processes there, the program too.
            if got.si_code != _SI_KERNEL:
                os.kill(child, got.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def _enter_mount_namespace(container: Container) -> None:
    directory = Path.cwd()
    _check(_libc.unshare(_CLONE_NEWNS), "making a mount namespace")
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _build_dev(container.staging, container.edits)
    _hide_leases(container)
    _mount("/proc/sys", "/proc/sys", flags=_MS_BIND)
    for path in ("/proc/sys", "/sys"):
        _set_read_only(path)
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")


def _build_dev(staging: Path, edits: Mapping[str, Any]) -> None:
    """A /dev with the usual nodes and those of `edits`, built on `staging` and then moved."""
    _mount("som-dev", str(staging), "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=0755,size=64k")
    for name in _NODES:
        (staging / name).touch()
        _mount(f"/dev/{name}", str(staging / name), flags=_MS_BIND)
    # A stand-in that was started before an update may tell of none.
    for node in edits.get("deviceNodes", ()):
        path = staging / Path(node["path"]).relative_to("/dev")
        os.mknod(path, stat.S_IFCHR, os.makedev(node["major"], node["minor"]))
        path.chmod(node["fileMode"])
    for mount in edits["mounts"]:
        target = staging / Path(mount["containerPath"]).relative_to("/dev")
        target.touch()
        _mount(mount["hostPath"], str(target), flags=_MS_BIND)
        flags = sum({_FLAGS[option] for option in mount["options"]})
        _mount("none", str(target), flags=_MS_REMOUNT | _MS_BIND | flags)
    for name, link in _LINKS.items():
        (staging / name).symlink_to(link)
    (staging / "pts").mkdir()
    options = "newinstance,ptmxmode=0666,mode=0620"
    _mount("devpts", str(staging / "pts"), "devpts", _MS_NOSUID | _MS_NOEXEC, options)
    (staging / "shm").mkdir()
    _mount("shm", str(staging / "shm"), "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "mode=1777")
    _mount(str(staging), "/dev", flags=_MS_MOVE)


def _hide_leases(container: Container) -> None:
    """Take every lease but the program's own out of its tree, and cover the state directory."""
    # Only root mounts hugetlbfs; any user can name a FUSE mount as he likes.
    own = {mount["containerPath"] for mount in container.edits["mounts"]}
    for mount in reversed(mountinfo.read(fstype="hugetlbfs")):
        if mount.source.startswith("som:") and str(mount.mountpoint) not in own:
            try:
                mounts.detach(str(mount.mountpoint))
            except OSError as error:
                # The agent's rmdir of an ended lease's directory detaches it here as well.
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("som-hidden", str(container.hidden), "tmpfs", flags, "mode=0700,size=4k")


def _drop_privileges(user: users.User | None) -> None:
    kept = frozenset() if user and user.uid else _ROOT_CAPABILITIES
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in range(last + 1):
        if capability not in kept:
            _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if user:
        if user.uid:
            terminal.forbid_typing()
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)


def _set_read_only(path: str) -> None:
    """mount_setattr(2) with MOUNT_ATTR_RDONLY for `path` and what is mounted below it."""
    attributes = (ctypes.c_uint64 * 4)(_MS_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_long(_AT_FDCWD),
        path.encode(),
        ctypes.c_long(_AT_RECURSIVE),
        attributes,
        ctypes.c_long(ctypes.sizeof(attributes)),
    )
    _check(result, f"making {path} read-only")


def _mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(
        source.encode(),
        target.encode(),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, f"mounting {source} at {target}")


def _prctl(option: int, value: int) -> None:
    result = _libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)
    _check(result, f"prctl {option} {value}")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise mounts.failure(what)
