"""What a program and its children have in huge pages while they run."""

import contextlib
import pathlib
import re
import threading
from collections.abc import Iterator

PROC = pathlib.Path("/proc")


class Watch:
    """Looks five times a second how much of the lease one process has touched at the most."""

    def __init__(self, process: int) -> None:
        self.most_bytes = 0
        self._root = process
        self._end = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator["Watch"]:
        thread = threading.Thread(target=self._look_until_the_end)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()

    def _look_until_the_end(self) -> None:
        while not self._end.wait(0.2):
            for process in _with_descendants(self._root):
                self.most_bytes = max(self.most_bytes, _huge_bytes(process))


def _with_descendants(process: int) -> list[int]:
    found = [process]
    for task in PROC.glob(f"{process}/task/*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += _with_descendants(int(child))
    return found


def _huge_bytes(process: int) -> int:
    with contextlib.suppress(OSError):
        text = (PROC / str(process) / "smaps_rollup").read_text()
        sizes = re.findall(r"^(?:Shared|Private)_Hugetlb: +(\d+) kB", text, re.M)
        return sum(map(int, sizes)) * 1024
    return 0
