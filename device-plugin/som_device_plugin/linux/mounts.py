"""Mounting in steps (fsopen(2), fsconfig(2), fsmount(2), move_mount(2)), and unmounting.

The worker imports this at every start of a container: nothing slow may be imported here.
"""

import ctypes
import os

# Numbers of new system calls are the same on every architecture (asm-generic/unistd.h).
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_FSMOUNT_CLOEXEC = 1
_ATTR_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_AT_FDCWD = -100
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def build_hugetlbfs(source: str, options: dict[str, str]) -> int:
    """A new hugetlbfs superblock, mounted nowhere: the fd of its root (nosuid, nodev, noexec).

    noexec: the kernel truncates no file that a process runs from (execve(2), ETXTBSY).

    The superblock and its pages go when the last fd and mapping of it go, unless `attach` was
    called before. Raises OSError naming the step.
    """
    context = _call("fsopen hugetlbfs", _FSOPEN, b"hugetlbfs", _FSOPEN_CLOEXEC)
    try:
        for key, value in {"source": source, **options}.items():
            _call(
                f"fsconfig {key}={value}",
                _FSCONFIG,
                context,
                _FSCONFIG_SET_STRING,
                key.encode(),
                value.encode(),
                0,
            )
        _call("fsconfig CREATE", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, _ATTR_NOSUID_NODEV_NOEXEC)
    finally:
        os.close(context)


def attach(mount_fd: int, directory: str) -> None:
    """Mount what `build_hugetlbfs` made over `directory`. Raises OSError."""
    _call(
        f"move_mount to {directory}",
        _MOVE_MOUNT,
        mount_fd,
        b"",
        _AT_FDCWD,
        directory.encode(),
        _MOVE_MOUNT_F_EMPTY_PATH,
    )


def detach(directory: str) -> None:
    """Take the topmost mount of `directory` out of the tree, whoever still uses it."""
    if _libc.umount2(directory.encode(), _MNT_DETACH):
        raise failure(f"umount2 {directory}")


def failure(what: str) -> OSError:
    """Of the last call of the C library in this thread, which was `what`."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _call(what: str, number: int, *arguments: int | bytes | None) -> int:
    typed = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
        for argument in arguments
    ]
    result: int = _libc.syscall(ctypes.c_long(number), *typed)
    if result < 0:
        raise failure(what)
    return result
