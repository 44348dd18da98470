"""The huge pages of the unit tests behave as the kernel's: same calls, same counters."""

import mmap

import pytest

from fakes.huge_pages import PAGE, HugePages
from som_device_plugin.linux import hugepages

MAP_HUGETLB = 0x40000


class Both:
    """A kernel and its fake; `use` reserves pages in both."""

    def __init__(self, fake: HugePages) -> None:
        self.fake = fake
        self._used: list[mmap.mmap] = []

    def write(self, node: int | None, pages: int) -> None:
        self.fake.write(node, pages)
        if node is None:
            path = hugepages._MACHINE / "hugepages-2048kB" / "nr_hugepages"
        else:
            path = hugepages._node_directory(PAGE, node) / "nr_hugepages"
        path.write_text(str(pages))

    def use(self, pages: int) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB
        memory = mmap.mmap(-1, pages * PAGE, flags=flags)
        for page in range(pages):
            memory[page * PAGE] = 1
        self._used.append(memory)
        self.fake.use(pages)

    def end(self) -> None:
        while self._used:
            memory = self._used.pop()
            self.fake.use(-(len(memory) // PAGE))
            memory.close()


@pytest.mark.parametrize(
    "steps",
    [
        [("write", 0, 12), ("write", 0, 5), ("write", None, 9)],
        [("write", 0, 12), ("use", 8), ("write", 0, 3), ("write", None, 6), ("end",)],
        [("write", None, 12), ("use", 8), ("write", None, 0), ("write", 0, 4), ("write", 0, 20)],
        [("write", 0, 12), ("use", 4), ("use", 4), ("write", None, 2), ("end",), ("write", 0, 1)],
    ],
)
def test_the_counters_of_fake_and_kernel_are_the_same_after_each_step(
    steps: list[tuple[str, int]],
) -> None:
    assert hugepages.node_counts(PAGE, 0).total == 0, "the machine has no huge pages of its own"
    fake = HugePages(1)
    both = Both(fake)
    try:
        for call, *arguments in steps:
            getattr(both, call)(*arguments)
            counts = hugepages.machine_counts(PAGE)
            assert (counts.total, counts.surplus) == (fake.total[0], fake.surplus[0]), call
            assert counts.free == fake.total[0] - fake.used
    finally:
        both.end()
        both.write(0, 0)
