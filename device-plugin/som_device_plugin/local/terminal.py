"""Keeps a program of another user from typing into the terminal that it shares with root.

TIOCSTI puts bytes into a terminal's input, and TIOCLINUX pastes a selection there: root's shell
would read them when the program has ended. A seccomp filter refuses the two with EPERM. A pty
between would have to copy all input and output and to imitate job control; with the filter the
program stays on the terminal itself. (ioctl_tty(2), seccomp(2), flatpak's CVE-2019-10063 and
CVE-2023-28100: the kernel looks at 32 bits of the command, and both calls need the rule.)
"""

import ctypes
import os
import struct
from typing import Final

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_RET_EPERM: Final = 0x00050001
_RET_ALLOW: Final = 0x7FFF0000
_LOAD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06

# Offsets in struct seccomp_data; both processors are little-endian.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_COMMAND: Final = 24

_FORBIDDEN: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX."""

_IOCTLS: Final[dict[str, dict[int, tuple[int, ...]]]] = {
    "x86_64": {0xC000003E: (16, 0x40000000 + 514), 0x40000003: (54,)},
    "aarch64": {0xC00000B7: (29,), 0x40000028: (54,)},
}
"""Machine -> AUDIT_ARCH of each of its system call tables -> numbers of ioctl; x32's too."""


def forbid_typing() -> None:
    """No TIOCSTI and no TIOCLINUX in this process and its children. Needs no_new_privs.

    Raises:
        OSError: the kernel has no seccomp, or this processor is not known.
    """
    machine = os.uname().machine
    if machine not in _IOCTLS:
        raise OSError(f"--user is not possible on {machine}: its system calls are not known")
    program = b"".join(_filter(_IOCTLS[machine]))
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), described):
        number = ctypes.get_errno()
        raise OSError(
            number,
            f"setting a seccomp filter: {os.strerror(number)}; --user needs a kernel with "
            "CONFIG_SECCOMP_FILTER",
        )


def _filter(ioctls: dict[int, tuple[int, ...]]) -> list[bytes]:
    """A classic BPF program: for each table, ioctl with a forbidden command is refused."""
    allow, refuse = _step(_RETURN, _RET_ALLOW), _step(_RETURN, _RET_EPERM)
    command = [_step(_LOAD, _COMMAND)]
    for index, forbidden in enumerate(_FORBIDDEN):
        command.append(_step(_JUMP_IF_EQUAL, forbidden, then=len(_FORBIDDEN) - index))
    command += [allow, refuse]
    result = [_step(_LOAD, _ARCHITECTURE)]
    for architecture, numbers in ioctls.items():
        table = [_step(_LOAD, _NUMBER)]
        for index, number in enumerate(numbers):
            table.append(_step(_JUMP_IF_EQUAL, number, then=len(numbers) - index))
        table += [allow, *command]
        result += [_step(_JUMP_IF_EQUAL, architecture, otherwise=len(table)), *table]
    return [*result, allow]


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """struct sock_filter; jumps are numbers of steps to leave out."""
    return struct.pack("HBBI", code, then, otherwise, value)
