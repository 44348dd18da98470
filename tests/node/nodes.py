"""A node as the lease core drives it: one source, one driver, starts and the bytes in them."""

import mmap
import pathlib
import secrets
from typing import TypedDict, Unpack

from som_api import v1alpha1
from som_device_plugin import backends, seams
from som_device_plugin.linux import hugepages
from som_device_plugin.sources.hugetlb import plan

MIB = 2**20
GIB = 2**30
PAGE = 2 * MIB


class Options(TypedDict, total=False):
    """Of a start, with the defaults of `Node.start`."""

    lease_id: str
    number: int
    pool: str
    page_bytes: int
    others: frozenset[int]


class Node:
    """A source and a driver over one state directory, with what the tests ask of them."""

    def __init__(self, state_dir: pathlib.Path, *, guard: plan.Guard | None = None) -> None:
        self.state_dir = state_dir
        self.guard = guard or plan.Guard()
        self._drivers: list[seams.Driver] = []
        self.restart()

    def restart(self, *, boot_id: str = "this-boot") -> None:
        """What a new agent sees: the kernel and the store, and nothing remembered."""
        made = backends.Backends(self.state_dir, boot_id=boot_id, guard=self.guard)
        backend = made.of(node_pool(PAGE, pool="any", page="2Mi"))
        self.driver, self.source = backend.driver, backend.source
        self._drivers.append(self.driver)

    async def apply(
        self,
        capacity_bytes: int,
        *,
        pool: str = "databases",
        page: str = "2Mi",
        held_bytes: int = 0,
    ) -> seams.PoolReserved:
        """The pool's order, carried out."""
        return await self.source.apply(
            node_pool(capacity_bytes, pool=pool, page=page),
            held_bytes=held_bytes,
            on_progress=lambda _bytes: None,
        )

    def start(
        self,
        size_bytes: int,
        *,
        lease_id: str = "",
        number: int = 1,
        pool: str = "databases",
        page_bytes: int = PAGE,
        others: frozenset[int] = frozenset(),
    ) -> seams.Start:
        """A start that is not built yet, in a free slot."""
        return seams.Start(
            lease_id=seams.LeaseId(lease_id or secrets.token_hex(8)),
            number=number,
            pool=pool,
            slot=self.driver.free_slot(pool=pool, named=others),
            size_bytes=size_bytes,
            page_bytes=page_bytes,
            driver=self.driver.name,
            preferred_node=hugepages.nodes()[0],
        )

    async def built(self, size_bytes: int, **options: Unpack[Options]) -> seams.Start:
        """A start with its memory attached."""
        start = self.start(size_bytes, **options)
        await self.driver.build(start, on_progress=lambda _bytes: None)
        return start

    def file(self, start: seams.Start) -> pathlib.Path:
        """Where the start's memory is, as the container's runtime finds it."""
        return self.state_dir / "leases" / start.built[0] / "som"

    def fill(self, start: seams.Start, byte: bytes) -> None:
        """Write `byte` all over the start's memory."""
        with self.file(start).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            for offset in range(0, start.size_bytes, PAGE):
                memory[offset : offset + PAGE] = byte * PAGE

    def read(self, start: seams.Start) -> bytes:
        """All bytes of the start's memory, each value once."""
        with self.file(start).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            pages = [memory[at : at + PAGE] for at in range(0, len(memory), PAGE)]
            return bytes(sorted(set().union(*map(_values, pages))))

    async def give_back(self) -> None:
        """Ends everything, whatever state the test has left it in."""
        for driver in self._drivers:
            await driver.close()
        self.restart()
        self.driver.end_builders()
        for (lease_id, number), size_bytes in self.driver.look([]).attached.items():
            self.driver.revoke(seams.Start(lease_id, number, "", 0, size_bytes, PAGE, "HugeTLBFS"))
        for pool in (await self.source.check())[1]:
            await self.source.release(pool.pool)


def _values(page: bytes) -> set[int]:
    return {page[0]} if page == page[:1] * len(page) else set(page)


def node_pool(capacity_bytes: int, *, pool: str, page: str) -> v1alpha1.NodePool:
    """A pool's order for a node."""
    order = {"name": pool, "generation": 1, "unit": page, "capacity": capacity_bytes}
    source = {"hugeTLB": {"pageSize": page}}
    return v1alpha1.NodePool.model_validate({**order, "source": source})
