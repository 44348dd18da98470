"""The kernel's huge pages of one size on several NUMA nodes, as mm/hugetlb.c counts them.

`test_huge_pages_contract.py` of the node tier holds it against a real kernel.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from unittest import mock

from som_device_plugin.linux import hugepages

PAGE = 2 * 2**20


class Killed(BaseException):
    """The process ended here."""


class HugePages:
    """Counters by node, and how many pages are in use or reserved.

    Which of a node's pages are in use is not modelled, but for those `pinned` there, which are
    among them. `spare` is how many pages the kernel still finds memory for. `die` makes the next
    writes end the process: `["", "before"]` is before the second one.
    """

    def __init__(self, nodes: int, *, spare: int = 10**6) -> None:
        self.total = dict.fromkeys(range(nodes), 0)
        self.surplus = dict.fromkeys(range(nodes), 0)
        self.used = 0
        self.pinned = dict.fromkeys(range(nodes), 0)
        self.spare = spare
        self.corrupted = 0
        self.overcommit = 0
        self.writes: list[int] = []
        self.die: list[str] = []

    def persistent(self, node: int | None = None) -> int:
        nodes = self.total if node is None else (node,)
        return sum(self.total[each] - self.surplus[each] for each in nodes)

    def write(self, node: int | None, pages: int) -> None:
        """As set_max_huge_pages() does it."""
        allowed = list(self.total) if node is None else [node]
        wanted = pages if node is None else pages + self.persistent() - self.persistent(node)
        turn = 0
        while wanted > self.persistent() and (rest := [n for n in allowed if self.surplus[n]]):
            self.surplus[rest[0]] -= 1
        while wanted > self.persistent() and self.spare > 0:
            self.total[allowed[turn % len(allowed)]] += 1
            self.spare -= 1
            turn += 1
        while self.persistent() > max(wanted, self.used) and (rest := self._free_of(allowed)):
            self.total[rest[turn % len(rest)]] -= 1
            self.spare += 1
            turn += 1
        while self.persistent() > wanted and (rest := self._persistent_of(allowed)):
            self.surplus[rest[turn % len(rest)]] += 1
            turn += 1

    def use(self, pages: int) -> None:
        """So many pages more are in use or reserved; below 0: fewer. Surplus pages leave then."""
        self.used += pages
        for _ in range(max(-pages, 0)):
            for node in [n for n in self.total if self.surplus[n]][:1]:
                self.surplus[node] -= 1
                self.total[node] -= 1
                self.spare += 1

    def move(self, source: int, target: int, pages: int) -> None:
        """Migrate pages, as mbind(2) does."""
        self.total[source] -= pages
        self.total[target] += pages

    def _free_of(self, nodes: list[int]) -> list[int]:
        return [n for n in self._persistent_of(nodes) if self.total[n] > self.pinned[n]]

    def _persistent_of(self, nodes: list[int]) -> list[int]:
        return [node for node in nodes if self.persistent(node) > 0]

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """In the place of sysfs and /proc/meminfo for `linux.hugepages`."""
        with mock.patch.multiple(
            hugepages,
            page_sizes=lambda: [PAGE],
            compact=lambda _node: None,
            nodes=lambda: tuple(self.total),
            node_counts=lambda _size, node: hugepages.NodeCounts(
                total=self.total[node],
                free=self.total[node] - self.pinned[node],
                surplus=self.surplus[node],
            ),
            machine_counts=lambda _size: hugepages.MachineCounts(
                total=sum(self.total.values()),
                free=sum(self.total.values()) - self.used,
                surplus=sum(self.surplus.values()),
                reserved=0,
                overcommit=self.overcommit,
            ),
            memory=lambda: hugepages.Memory(2**50, 2**50, self.corrupted * 4096),
            _write_pages=self._written,
        ):
            yield

    def _written(self, path: pathlib.Path, pages: int) -> None:
        when = self.die.pop(0) if self.die else ""
        if when == "before":
            raise Killed
        self.writes.append(pages)
        name = path.parents[2].name
        self.write(int(name.removeprefix("node")) if name.startswith("node") else None, pages)
        if when == "after":
            raise Killed
