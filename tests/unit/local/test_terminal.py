"""On a real pseudo-terminal, with the kernel's own filter."""

import os
import pathlib
import pty
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, errno, fcntl, os, sys, termios
from som_device_plugin.local import terminal
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)  # no_new_privs
terminal.forbid_typing()
x = ctypes.create_string_buffer(b"x")
def ioctl(number, command):
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), 0, ctypes.c_ulong(command), x)
    return errno.errorcode.get(ctypes.get_errno())
for number in map(int, sys.argv[1:]):
    for command in (0x5412, 0x541C, 1 << 32 | 0x5412, 0xffffffff << 32 | 0x541C):
        assert ioctl(number, command) == "EPERM", (number, hex(command), ioctl(number, command))
termios.tcgetattr(0)
print(os.get_terminal_size(0).columns >= 0)
"""
NUMBERS = {"x86_64": ["16", str(0x40000000 + 514)], "aarch64": ["29"]}


@pytest.mark.skipif(os.uname().machine not in NUMBERS, reason="the processor has no filter")
def test_a_program_cannot_type_into_its_terminal_by_any_call_and_can_do_all_else(
    tmp_path: pathlib.Path,
) -> None:
    program = tmp_path / "type.py"
    program.write_text(PROGRAM)
    ours, its = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, program, *NUMBERS[os.uname().machine]],
            stdin=its,
            capture_output=True,
            text=True,
        )
    finally:
        os.close(ours)
        os.close(its)
    assert done.stdout == "True\n", done.stderr
