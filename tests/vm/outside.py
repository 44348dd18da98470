"""The host's side: a guest with two NUMA nodes that runs tests with the host's own programs.

The guest has no disk. It sees /usr, Python and this tree of the host, read-only (virtiofs), so
that nothing is packed, and nothing can be stale.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from driver import bench, build
from guests import debian, guest
from vm import memory

HERE = Path(__file__).parent
TREE = HERE.parents[1]
KERNEL = "6.12"
PROGRAMS = ("claim",)
GIVEN = ("SOM_CHURN_SECONDS", "SOM_CHURN_SEED")
"""What of the environment the guest has too."""
VIRTIOFSD = [Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd")]
LIMIT_S = 1800
START_LIMIT_S = 60

_NODES = [
    word
    for node, size in enumerate(("1G", "7G"))
    for word in (
        *("-object", f"memory-backend-memfd,id=memory{node},size={size},share=on"),
        *("-numa", f"node,nodeid={node},cpus={node},memdev=memory{node}"),
    )
]


def requirements_missing() -> str:
    """What this machine lacks, as a sentence with the cure; "" if nothing."""
    if reason := bench.requirements_missing():
        return reason
    found = any(path.exists() for path in VIRTIOFSD)
    return "" if found else "virtiofsd missing: apt-get install qemu-system-common"


class Guest:
    """Boots in the background, runs `tests` (ids of pytest) in order, and powers off."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="som-vm-"))
        self.console = ""
        self._tests = tests
        self._failure: Exception | None = None
        self._results = self.work / "log" / "results"
        self._read = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def reports(self) -> Iterator[dict[str, Any]]:
        """The reports of the next test.

        Raises:
            AssertionError: the guest has ended before its last report.
        """
        while True:
            ended = not self._thread.is_alive()
            for line in self._said():
                self._read += len(line)
                if line.startswith(b"{"):
                    report = json.loads(line)
                    yield report
                    if report["when"] == "teardown":
                        return
            assert not ended, f"the guest has ended: {self._failure}\n{self.console[-5000:]}"
            time.sleep(0.1)

    def end(self) -> str:
        """Waits for the guest's end: its console."""
        self._thread.join()
        if self._failure:
            raise self._failure
        return self.console

    def remove(self) -> None:
        self._thread.join()
        shutil.rmtree(self.work)

    def _said(self) -> list[bytes]:
        """The whole lines that were not read yet."""
        with contextlib.suppress(FileNotFoundError), self._results.open("rb") as file:
            file.seek(self._read)
            return [line for line in file if line.endswith(b"\n")]
        return []

    def _run(self) -> None:
        try:
            kernel = debian.kernel(KERNEL)
            with shared(self.work) as (socket, paths):
                run = guest.run(
                    kernel, machine(socket), self._files(kernel, paths), self._plan(),
                    self.work / "log",
                )  # fmt: skip
            self.console = run.console
            assert run.finished, "it did not finish its plan"
        except Exception as error:
            self._failure = error

    def _plan(self) -> list[guest.Test]:
        given = [f"{name}={os.environ[name]}" for name in GIVEN if name in os.environ]
        python = (
            f"cd {TREE}; PATH=/usr/sbin:/usr/bin:/bin PYTHONPATH=tests PYTHONDONTWRITEBYTECODE=1 "
            f"{' '.join([*given, sys.executable])} -m vm.inside {' '.join(self._tests)}"
        )
        return [
            guest.Test(name="set-up", command="sh /set-up"),
            guest.Test(name="tests", command=python, limit_s=LIMIT_S),
        ]

    def _files(self, kernel: debian.Kernel, paths: Sequence[Path]) -> Mapping[str, Path]:
        listed = self.work / "shared"
        listed.write_text("".join(f"{path}\n" for path in paths))
        for name in PROGRAMS:
            source = TREE / "tests/node/programs" / f"{name}.c"
            subprocess.run(["gcc", "-O1", "-static", "-o", self.work / name, source], check=True)
        programs = {f"programs/{name}": self.work / name for name in PROGRAMS}
        module = build.module(kernel, TREE / "driver", self.work / "som.ko")
        return {"set-up": HERE / "set-up", "shared": listed, "som.ko": module, **programs}


def machine(socket: Path) -> guest.Machine:
    """Two NUMA nodes of a processor each, of which the second has memory of all kinds.

    Shared files come through `socket`.
    """
    return guest.Machine(
        memory="8G",
        append=f"{memory.NOT_THE_KERNELS} {memory.CAN_BE_CARVED}",
        modules=("libnvdimm", "nd_e820", "nd_btt", "nd_pmem", "device_dax", "dax_pmem"),
        hardware=(
            *_NODES,
            *("-smp", "2,sockets=2,cores=1,threads=1"),
            *("-chardev", f"socket,id=files,path={socket}"),
            *("-device", "vhost-user-fs-pci,chardev=files,tag=host"),
        ),
    )


@contextlib.contextmanager
def shared(work: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Serves the host's files to a guest: the socket, and the directories that are there."""
    wanted = {Path("/usr"), TREE, Path(sys.prefix), *map(Path.resolve, [Path(sys.base_prefix)])}
    paths = [path for path in sorted(wanted) if not wanted & set(path.parents)]
    for package in ("api", "device-plugin", "tests"):
        compileall.compile_dir(TREE / package, quiet=2)
    root, socket = work / "root", work / "files.sock"
    root.mkdir()
    # In a mount namespace of its own, so that the end of the process is the end of the mounts.
    script = "".join(
        f"mkdir -p {root}{path}; mount --bind {path} {root}{path}; "
        f"mount -o remount,bind,ro {root}{path}\n"
        for path in paths
    )
    daemon = next(path for path in VIRTIOFSD if path.exists())
    serve = f"exec {daemon} --socket-path={socket} -o source={root} -o cache=always"
    script = f"mount -t tmpfs none {root}\n{script}{serve} -o sandbox=chroot -o log_level=err"
    with (work / "virtiofsd.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not socket.exists():
            said = (work / "virtiofsd.log").read_text()
            assert process.poll() is None and time.monotonic() < deadline, f"virtiofsd: {said}"
            time.sleep(0.02)
        yield socket, paths
    finally:
        process.kill()
        process.wait()
