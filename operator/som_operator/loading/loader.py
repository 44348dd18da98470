"""`loader.py load|unload`: the program of a driver pod, by Python's own library alone.

It loads the module of the sources in its image: the one that was built for this kernel with the
image, else one that it builds against the node's own headers. A module of another version is
replaced; the kernel refuses that while a pool is in it. Doing it twice is harmless.
"""

import argparse
import ctypes
import dataclasses
import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final, NoReturn, Protocol

from som_operator.loading import results

_FINIT_MODULE: Final = 313
_DELETE_MODULE: Final = 176
"""System calls of x86-64, the only architecture that som.ko knows."""
_UNTRUSTED: Final = (errno.EKEYREJECTED, errno.ENOKEY, errno.EPERM)
_SHOWN: Final = 600
"""Of what a program printed, the end."""


class Failure(Exception):
    """The node cannot have the module now: a reason of `results`, and the cure."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Kernel(Protocol):
    """What changes the kernel. Raises OSError."""

    def insert(self, module: pathlib.Path) -> None: ...
    def remove(self) -> None: ...


class RunningKernel:
    """The kernel that runs here."""

    def insert(self, module: pathlib.Path) -> None:
        with module.open("rb") as file:
            _system_call(_FINIT_MODULE, file.fileno(), b"", 0)

    def remove(self) -> None:
        _system_call(_DELETE_MODULE, b"som", os.O_NONBLOCK)


@dataclasses.dataclass(frozen=True)
class Module:
    """som.ko as the kernel has it."""

    version: str
    src_version: str


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loads som.ko into `kernel`, unloads it; all files are below `root`."""

    kernel: Kernel
    root: pathlib.Path = pathlib.Path("/")

    def load(self) -> str:
        """See to it that the wanted module is loaded: whether by us or others. Raises Failure."""
        loaded, wanted = self.loaded(), self._wanted_version()
        module = self.root / "opt/som/modules" / self.release / "som.ko"
        # Without a module to compare with, the version decides.
        if loaded and loaded.version == wanted and _src_version(module) in ("", loaded.src_version):
            return results.LOADED_BY_OTHERS
        with tempfile.TemporaryDirectory(dir=self.root / "tmp") as scratch:
            if not module.exists():
                module = self._build(pathlib.Path(scratch) / "driver")
                self._sign(module)
            if loaded:
                self._replace(loaded, wanted)
            try:
                self.kernel.insert(module)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    return results.LOADED_BY_OTHERS
                raise self._refused(error) from error
        return results.LOADED

    def unload(self) -> str:
        """See to it that no module is loaded. Raises Failure."""
        if loaded := self.loaded():
            try:
                self.kernel.remove()
            except OSError as error:
                raise Failure(
                    results.IN_USE,
                    f"som.ko {loaded.version} is not unloaded: {_in_words(error)}; it is in use as "
                    "long as there is a pool in it, see /sys/class/som on the node",
                ) from error
        return results.UNLOADED

    def loaded(self) -> Module | None:
        """The module that the kernel has."""
        folder = self.root / "sys/module/som"
        if not folder.exists():
            return None
        return Module(_read(folder / "version"), _read(folder / "srcversion"))

    @property
    def release(self) -> str:
        """What `uname -r` says."""
        return _read(self.root / "proc/sys/kernel/osrelease")

    @property
    def boot_id(self) -> str:
        return _read(self.root / "proc/sys/kernel/random/boot_id")

    @property
    def _headers(self) -> pathlib.Path:
        return self.root / "lib/modules" / self.release / "build"

    def _wanted_version(self) -> str:
        found = re.search(r'^PACKAGE_VERSION="(.*)"', _read(self._sources / "dkms.conf"), re.M)
        assert found is not None
        return found[1]

    @property
    def _sources(self) -> pathlib.Path:
        return self.root / "opt/som/driver"

    def _build(self, scratch: pathlib.Path) -> pathlib.Path:
        """Build the module in `scratch`; return its path."""
        release = self.release
        if not (self._headers / "Makefile").exists():
            raise Failure(
                results.NO_HEADERS,
                f"the node has no headers of its kernel: looked for {self._headers}/Makefile; "
                f"install linux-headers-{release} (Debian, Ubuntu) or kernel-devel-{release} "
                "(Fedora, RHEL) on the node, or build an image with the module in "
                f"/opt/som/modules/{release}",
            )
        compiler = compiler_of(_read(self.root / "proc/version"))
        if shutil.which(compiler) is None:
            raise Failure(
                results.COMPILER_MISSING,
                f"the node's kernel {release} was built with {compiler}, which the image lacks; "
                f"build an image that has it, or the module in /opt/som/modules/{release}",
            )
        shutil.copytree(self._sources, scratch)
        # Type information would need a pahole that knows the kernel's.
        options = (f"M={scratch}", f"CC={compiler}", "CONFIG_DEBUG_INFO_BTF_MODULES=")
        jobs = f"-j{os.cpu_count() or 1}"
        status, said = _run(["make", "-C", self._headers, jobs, *options, "modules"])
        if status:
            raise Failure(
                results.BUILD_FAILED,
                f"make ended with status {status} for kernel {release}; the pod's log has all: "
                f"{said[-_SHOWN:]}",
            )
        return scratch / "som.ko"

    def _sign(self, module: pathlib.Path) -> None:
        key, certificate = (self.root / "etc/som/signing" / f"tls.{end}" for end in ("key", "crt"))
        if not key.exists():
            return
        sign_file = self._headers / "scripts/sign-file"
        status, said = _run([sign_file, "sha256", key, certificate, module])
        if status:
            raise Failure(
                results.SIGNING_FAILED,
                f"{sign_file} ended with status {status}; the Secret of driver.signingSecret needs "
                f"tls.key and tls.crt in PEM: {said[-_SHOWN:]}",
            )

    def _replace(self, loaded: Module, wanted: str) -> None:
        try:
            self.kernel.remove()
        except OSError as error:
            raise Failure(
                results.VERSION_IN_USE,
                f"som.ko {loaded.version} ({loaded.src_version}) is loaded and not to be replaced "
                f"by {wanted} now: {_in_words(error)}; it is replaced when no pool is in it any "
                "more",
            ) from error

    def _refused(self, error: OSError) -> Failure:
        attempted = f"kernel {self.release} does not load som.ko: {_in_words(error)}"
        if _read(self.root / "proc/sys/kernel/modules_disabled") == "1":
            cure = "kernel.modules_disabled is 1, so it loads none until the node starts again"
            return Failure(results.LOAD_FAILED, f"{attempted}; {cure}")
        if error.errno in _UNTRUSTED:
            cure = (
                "Secure Boot, lockdown or module.sig_enforce demand a signature of a trusted key: "
                "enrol a certificate on the node (mokutil --import) and name the Secret with it "
                "and its key as the chart's driver.signingSecret"
            )
            return Failure(results.SIGNATURE_REQUIRED, f"{attempted}; {cure}")
        if error.errno == errno.ENOENT:
            cure = "dmesg on the node names the symbol that the kernel lacks"
            return Failure(results.UNKNOWN_SYMBOL, f"{attempted}; {cure}")
        return Failure(results.LOAD_FAILED, f"{attempted}; dmesg on the node may say more")


def compiler_of(proc_version: str) -> str:
    """The program that built the kernel, by /proc/version: `gcc-14`. Raises Failure."""
    found = re.search(r"gcc\S* \([^)]*\) (\d+)\.", proc_version)
    if found is None:
        raise Failure(
            results.COMPILER_MISSING,
            f"the node's kernel was not built with gcc: {proc_version}; build an image with the "
            "module in /opt/som/modules",
        )
    return f"gcc-{found[1]}"


def answer(loader: Loader, command: str) -> results.Result:
    """Do `command`; what came of it. The reason tells whether that is what was wanted."""
    message = ""
    try:
        reason = loader.load() if command == "load" else loader.unload()
    except Failure as failure:
        reason, message = failure.reason, str(failure)
    except OSError as error:
        reason, message = results.LOAD_FAILED, f"the driver pod could not work: {error}"
    loaded = loader.loaded() or Module("", "")
    return results.Result(
        reason=reason,
        message=message,
        version=loaded.version,
        src_version=loaded.src_version,
        kernel=loader.release,
        boot_id=loader.boot_id,
    )


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Exit status 0 when the node is as wanted."""
    parser = argparse.ArgumentParser(description="Loads som.ko on this node, or unloads it.")
    parser.add_argument("command", choices=["load", "unload"])
    parser.add_argument(
        "--answer", type=pathlib.Path, default="/dev/termination-log", help="file of the result"
    )
    arguments = parser.parse_args(argv)
    result = answer(Loader(RunningKernel()), arguments.command)
    print(f"{result.reason}: {result.message or result}", flush=True)
    arguments.answer.write_text(result.to_json())
    sys.exit(result.reason not in (results.LOADED, results.LOADED_BY_OTHERS, results.UNLOADED))


def _system_call(number: int, *arguments: int | bytes) -> None:
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _run(command: Sequence[str | pathlib.Path]) -> tuple[int, str]:
    """The exit status and what was printed, which goes to the pod's log, too."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        return 127, str(error)
    print(done.stdout, flush=True)
    return done.returncode, done.stdout


def _src_version(module: pathlib.Path) -> str:
    """What `modinfo` says of a module; "" where there is none."""
    if not module.exists():
        return ""
    found = re.search(rb"\0srcversion=(\w+)\0", module.read_bytes())
    return found[1].decode() if found else ""


def _read(path: pathlib.Path) -> str:
    """The text of a small file; "" where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _in_words(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, error.errno)} ({error.strerror})"


if __name__ == "__main__":
    main()
