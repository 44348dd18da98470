"""The guests of one test session: two run side by side, each test waits for its own."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from driver import build, plans
from guests import debian, debug_kernel, guest
from release import parts, tree
from som_api import VERSION

PACKAGES = "qemu-system-x86 busybox-static cpio xz-utils debian-archive-keyring gcc libc6-dev"


class Bench:
    """Runs each chosen boot once, in the background, and keeps what it said."""

    def __init__(self, chosen: Mapping[tuple[str, plans.Boot], Sequence[guest.Test]]) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="som-driver-"))
        self._building = threading.Lock()
        self._built: dict[str, tuple[debian.Kernel, dict[str, Path]]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(2)
        self._runs = {
            (kernel, boot.name): self._pool.submit(self._run, kernel, boot, tests)
            for (kernel, boot), tests in chosen.items()
        }

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self.work)

    def run(self, kernel: str, boot: plans.Boot) -> guest.Run:
        return self._runs[kernel, boot.name].result()

    def built(self, name: str) -> tuple[debian.Kernel, dict[str, Path]]:
        """A kernel, and what its guests get, by its path there."""
        with self._building:
            if name not in self._built:
                self._built[name] = self._build(name)
        return self._built[name]

    def _run(self, name: str, boot: plans.Boot, tests: Sequence[guest.Test]) -> guest.Run:
        kernel, files = self.built(name)
        return guest.run(kernel, boot.machine, files, tests, self.work / name / boot.name)

    def _build(self, name: str) -> tuple[debian.Kernel, dict[str, Path]]:
        kernel = debug_kernel.kernel() if name == debug_kernel.NAME else debian.kernel(name)
        made = self.work / name
        shim = build.program(
            made / "shim.so", build.GUEST / "programs/shim.c", flags=("-shared", "-fPIC")
        )
        mimalloc = debian.library("libmimalloc2.0", "usr/lib/*/libmimalloc.so.2.0")
        sort = Path("/usr/bin/sort")
        helpers = ("failalloc", "faulty") if name == debug_kernel.NAME else ("failalloc",)
        subprocess.run(["make", "-s", "libsom"], cwd=build.TREE, check=True)
        libsom = build.TREE / "build/libsom/libsom.so"
        heap = build.program(
            made / "heap", build.TREE / "tests/node/programs/heap.c", flags=("-U_GNU_SOURCE",)
        )
        return kernel, {
            "somtest": build.program(made / "somtest", *sorted(build.GUEST.glob("*.c"))),
            "som.ko": build.module(kernel, self._released(), made / "som.ko"),
            **{
                f"{helper}.ko": build.module(kernel, build.GUEST / helper, made / f"{helper}.ko")
                for helper in helpers
            },
            "programs/shim.so": shim,
            "programs/libmimalloc.so": mimalloc,
            "programs/sort": sort,
            "programs/libsom.so": libsom,
            "programs/heap": heap,
            **build.closure(sort, mimalloc, libsom),
        }

    def _released(self) -> Path:
        """The source as a release has it."""
        source = tree.Tree(build.TREE, VERSION, commit="", epoch=0)
        with tarfile.open(parts.module(source, self.work)) as tar:
            tar.extractall(self.work / "source", filter="data")
        return self.work / "source" / f"som-{VERSION}"


def requirements_missing() -> str:
    """What this machine lacks to run guests, as a sentence with the cure; empty if nothing."""
    if os.geteuid() != 0:
        return "root is needed to build modules in a chroot: run as root"
    programs = ("qemu-system-x86_64", "cpio", "xz", "gcc", "dpkg-deb", "apt-get", "unshare")
    absent = [name for name in programs if shutil.which(name) is None]
    absent += [path for path in ("/bin/busybox", debian.KEYRING) if not Path(path).exists()]
    return f"{', '.join(absent)} missing: apt-get install {PACKAGES}" if absent else ""
