"""What som.ko takes from a kernel, and how the kernel offers it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from guests import debian

LIST = Path(__file__).with_name("imports.txt")
# One for each register, as the compiler likes it.
THUNKS = "__x86_indirect_thunk_"


def of(module: Path, kernel: debian.Kernel) -> set[tuple[str, str]]:
    """Each symbol with the word that exports it, and for whom if not for all."""
    exported = {}
    for line in (kernel.sources / "Module.symvers").read_text().splitlines():
        _, symbol, _, kind, *namespace = line.split("\t")
        exported[symbol] = " ".join([kind, *filter(None, namespace)])
    listed = subprocess.run(["nm", "-u", module], capture_output=True, text=True, check=True)
    undefined = re.findall(rf"U (?!{THUNKS})(\S+)$", listed.stdout, re.M)
    return {(symbol, exported[symbol]) for symbol in undefined}


def known(kernel: str) -> set[tuple[str, str]]:
    """What somebody decided to take from this kernel."""
    entries = [line.split("\t") for line in LIST.read_text().splitlines() if line[:1] != "#"]
    return {(symbol, kind) for symbol, kind, kernels in entries if kernel in kernels.split()}
