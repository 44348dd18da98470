"""Builds the module and the guest's programs, outside the source tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from guests import debian

TREE = Path(__file__).parents[2]
GUEST = Path(__file__).parent / "guest"
CFLAGS = [
    "-O2", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
    "-Wno-unused-parameter", "-Wno-format-zero-length",
]  # fmt: skip


class BuildError(Exception):
    """A compiler refused; the message holds what it printed."""


def module(kernel: debian.Kernel, source: Path, output: Path) -> Path:
    """`source` (a Kbuild directory) built for `kernel` as `output`, warnings fatal (W=1)."""
    (kernel.root / "build").mkdir(exist_ok=True)
    inside = Path("/build") / Path(tempfile.mkdtemp(dir=kernel.root / "build")).name
    outside = kernel.root / inside.relative_to("/")
    shutil.copytree(
        source, outside, ignore=shutil.ignore_patterns("*.o", "*.ko", ".*"), dirs_exist_ok=True
    )
    try:
        # W=1 would also run kernel-doc, which needs Perl. objtool of 7.3 reads /proc.
        printed = _run(
            ["unshare", "--pid", "--fork", f"--mount-proc={kernel.root}/proc",
             "chroot", kernel.root, "/usr/bin/make", "-s", "-C", kernel.headers, f"M={inside}",
             "W=1", "cmd_checkdoc=:", "modules"]
        )  # fmt: skip
        if re.search(r"^(?!/usr/src|warning: pahole).*warning:", printed, re.M):
            raise BuildError(f"{output.name} for {kernel.release} has warnings:\n{printed}")
        shutil.move(outside / output.name, output)
    finally:
        shutil.rmtree(outside)
    return output


def program(output: Path, *sources: Path, flags: tuple[str, ...] = ("-static",)) -> Path:
    """A C program for the guest, from the header of this tree and the sources named."""
    includes = [f"-I{TREE / 'driver/uapi'}", f"-I{GUEST}"]
    output.parent.mkdir(parents=True, exist_ok=True)
    _run(["gcc", *CFLAGS, *includes, "-o", output, *sources, *flags, "-pthread"])
    return output


def closure(*programs: Path) -> dict[str, Path]:
    """The shared libraries that these need: where the loader looks for each, and where it is."""
    found = {}
    for program in programs:
        for line in _run(["ldd", program]).splitlines():
            if path := re.search(r"(/\S+) \(0x", line):
                found[path[1].removeprefix("/")] = Path(path[1])
    return found


def _run(command: list[str | Path]) -> str:
    done = subprocess.run(
        ["nice", "-n", "10", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}:\n{done.stdout}")
    return done.stdout
