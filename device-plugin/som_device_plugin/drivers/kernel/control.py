"""How som.ko is asked: one command after the other, by its control device, and by sysfs."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import Final, TypeVar

from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi

KERNEL_TOO_OLD: Final = errno.ENOPKG

_MOVES: Final = ("moved_bytes", "failed_moves")
_REASONS: Final = {
    errno.ETIME: "not done in time, so it was stopped",
    KERNEL_TOO_OLD: "refused, because on this kernel any user could crash the node with memory "
    "of this source and class Bare; the kernel's log names the first good versions, and class "
    "Pinnable and HugeTLB work on all",
}


_CHILD: Final = """
import ctypes, fcntl, os, sys
control, command, argument, parent = sys.argv[1:]
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
os.getppid() == int(parent) or sys.exit(3)
try:
    fcntl.ioctl(int(control), int(command), bytes.fromhex(argument))
except OSError as error:
    sys.exit(error.errno)
"""
"""Ends with the agent: another one finds the command done, or not begun."""


class KernelError(seams.DriverError):
    """som.ko refused a command; `errno` is its answer."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


_Any = TypeVar("_Any", bound=abi.Argument)


@dataclasses.dataclass(frozen=True)
class Module:
    """som.ko, by its control device and sysfs. Pools and leases live in the kernel, not here.

    The device is opened for each command: who has it open keeps the module from being unloaded.
    """

    dev: pathlib.Path = pathlib.Path("/dev")
    sysfs: pathlib.Path = pathlib.Path("/sys")

    def call(self, argument: _Any) -> _Any:
        """Run a command; the same object, with the kernel's answer in it.

        Raises:
            seams.DriverNotLoaded: there is no som.ko in the kernel.
            KernelError: what the kernel answered.
        """
        name = type(argument).__name__
        try:
            control = self.open()
        except OSError as error:
            raise KernelError(
                f"opening /dev/som_ctl: {error.strerror}; it needs root (a privileged container)",
                error.errno or 0,
            ) from error
        try:
            fcntl.ioctl(control, argument.command, argument)
        except OSError as error:
            code = error.errno or 0
            raise KernelError(f"{name}: {_REASONS.get(code, error.strerror)}", code) from error
        finally:
            os.close(control)
        return argument

    def call_in_child(self, argument: abi.Argument, *, limit_s: float) -> None:
        """Run a command that answers nothing, and that only the end of its process stops.

        Raises:
            seams.DriverNotLoaded: there is no som.ko in the kernel.
            KernelError: what the kernel answered; ETIME: nothing in `limit_s`, so it was stopped.
        """
        name = type(argument).__name__
        control = self.open()
        words = (control, argument.command, bytes(argument).hex(), os.getpid())
        try:
            code = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CHILD, *map(str, words)],
                pass_fds=[control],
                timeout=limit_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = errno.ETIME
        finally:
            os.close(control)
        if code:
            text = _REASONS.get(code, os.strerror(code) if code > 0 else f"signal {-code}")
            raise KernelError(f"{name}: {text}", max(code, 0))

    def open(self) -> int:
        """A descriptor of the control device, to be closed.

        Raises:
            seams.DriverNotLoaded: there is no som.ko in the kernel.
            OSError: the agent may not.
        """
        try:
            shown = (self.sysfs / "class/misc/som_ctl/dev").read_text()
        except FileNotFoundError:
            raise seams.DriverNotLoaded(
                "som.ko is not loaded on this node; the operator loads it, and its pod "
                "som-driver-<node> says why it could not; without Kubernetes: see driver/README.md"
            ) from None
        number = os.makedev(*map(int, shown.split(":")))
        path = self.dev / "som_ctl"
        # A container's /dev has what the node had when the container began.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_rdev != number:
                path.unlink()
        with contextlib.suppress(FileExistsError):
            os.mknod(path, 0o600 | stat.S_IFCHR, number)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def leases(self) -> Iterator[abi.LeaseInfo]:
        """All leases in the kernel, whoever has made them."""
        for number in self._numbers("lease"):
            if found := self.lease(number):
                yield found

    def lease(self, number: int) -> abi.LeaseInfo | None:
        """The lease of this number, or None."""
        with absent():
            return self.call(abi.LeaseInfo(lease=number))
        return None

    def pools(self) -> Iterator[abi.PoolInfo]:
        """All pools in the kernel, whoever has made them."""
        for number in self._numbers("pool"):
            if found := self.pool(number):
                yield found

    def pool(self, number: int) -> abi.PoolInfo | None:
        """The pool of this number, with the memory of all NUMA nodes, or None."""
        with absent():
            return self.call(abi.PoolInfo(pool=number, numa_node=abi.NUMA_ANY))
        return None

    def moves(self, pool: int) -> seams.Moves | None:
        """What was moved in the pool of this number; None: it has gone."""
        directory = self.sysfs / f"class/som/pool{pool}"
        try:
            numbers = [int((directory / name).read_text()) for name in _MOVES]
        except OSError:
            return None
        return seams.Moves(*numbers)

    def _numbers(self, kind: str) -> list[int]:
        """Of the devices of a kind, as sysfs shows them; none when som.ko is not loaded."""
        paths = (self.sysfs / "class/som").glob(f"{kind}*")
        return sorted(int(path.name.removeprefix(kind)) for path in paths)


@contextlib.contextmanager
def absent() -> Iterator[None]:
    """What is not there, with som.ko or without, needs no command."""
    try:
        yield
    except seams.DriverNotLoaded:
        pass
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
