"""A pool that lives in som.ko, found again by its name: nothing about it is kept anywhere else."""

import errno
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi, control

_LONGEST: Final = abi.NAME_BYTES - 1
_CARVE_LIMIT_S: Final = 30.0
_MAPPINGS: Final[Mapping[v1alpha1.Mapping, int]] = {
    "Bare": abi.MAPPING_BARE,
    "Pinnable": abi.MAPPING_PINNABLE,
}
_CURES: Final = {
    errno.EBUSY: "it, or a part of it, is in use",
    errno.ENXIO: "there is no memory behind it",
}


def of_agent(module: control.Module, state_dir: pathlib.Path) -> frozenset[int]:
    """The numbers of all pools that the agent of `state_dir` has in som.ko."""
    mark = _mark(state_dir).encode()
    return frozenset(each.pool for each in module.pools() if each.name.startswith(mark))


def _mark(state_dir: pathlib.Path) -> str:
    return _digest(str(state_dir.resolve()))[:8]


def kernel_name(state_dir: pathlib.Path, pool: str) -> str:
    """The name of `pool` in som.ko: of whom, a mark of its whole name, and what fits of that."""
    return f"{_mark(state_dir)}{_digest(pool)[:4]}.{pool}"[:_LONGEST]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Pool:
    """Implements `seams.RangeHold`. `source` is one of `abi.SOURCE_...`."""

    def __init__(self, module: control.Module, *, state_dir: pathlib.Path, pool: str, source: int):
        self._module = module
        self._pool = pool
        self._name = kernel_name(state_dir, pool).encode()
        self._source = source

    def info(self) -> abi.PoolInfo | None:
        """The accounts of the pool, or None.

        Raises:
            seams.DriverNotLoaded: no som.ko, no pool.
        """
        self._module.call(abi.Query())
        return next((each for each in self._module.pools() if each.name == self._name), None)

    def spans(self) -> Sequence[seams.Span]:
        """See `seams.RangeHold`."""
        return list(self.each_span())

    def each_span(self) -> Iterator[seams.Span]:
        """One after the other, by address, as they are then."""
        if (info := self.info()) is None:
            return
        address = 0
        while True:
            try:
                span = self._module.call(abi.PoolSpan(pool=info.pool, start=address))
            except control.KernelError as error:
                if error.errno in (errno.ENODATA, errno.ENOENT):
                    return
                raise
            yield seams.Span(
                start=span.start,
                size_bytes=span.bytes,
                node=span.numa_node,
                held_bytes=span.held_bytes,
                is_leaving=bool(span.state & abi.SPAN_STATE_LEAVING),
            )
            address = span.start + span.bytes

    def holding(self) -> seams.Holding:
        """See `seams.RangeHold`."""
        if (info := self.info()) is None:
            return seams.Holding(free_bytes=0, held_bytes=0)
        # Where memory has failed, more may be promised than there is.
        free_bytes = max(info.bytes - info.reserved_bytes - info.quarantined_bytes, 0)
        whole_bytes = min(info.free_extents * v1alpha1.UNIT_BYTES["1Gi"], free_bytes)
        return seams.Holding(
            free_bytes=free_bytes,
            held_bytes=info.reserved_bytes,
            bad_bytes=info.bad_bytes,
            whole_free_bytes=whole_bytes if info.mapping == abi.MAPPING_BARE else None,
        )

    def add(self, start: int, size_bytes: int, *, mapping: v1alpha1.Mapping = "Bare") -> None:
        """See `seams.RangeHold`."""
        doing = f"adding {_range(start, size_bytes)} to pool {self._pool}"
        number = self.make(mapping)
        try:
            wanted = abi.PoolAdd(pool=number, start=start, bytes=size_bytes)
            if self._source == abi.SOURCE_CARVED:
                # The kernel tries without end to move a page that somebody has pinned.
                self._module.call_in_child(wanted, limit_s=_CARVE_LIMIT_S)
            else:
                self._module.call(wanted)
        except control.KernelError as error:
            raise _refused(doing, error) from error

    def make(self, mapping: v1alpha1.Mapping = "Bare") -> int:
        """The number of the pool, which is made if there is none.

        Raises:
            RangeRefused: this kernel or module has no such pools; EINVAL: it is mapped otherwise.
        """
        if info := self.info():
            if info.mapping != _MAPPINGS[mapping]:
                raise seams.RangeRefused(
                    f"pool {self._pool} in som.ko is not mapped as {mapping}: delete the pool, and "
                    "make it again when its memory is back",
                    errno.EINVAL,
                )
            return int(info.pool)
        wanted = abi.PoolCreate(source=self._source, mapping=_MAPPINGS[mapping], name=self._name)
        try:
            return int(self._module.call(wanted).pool)
        except control.KernelError as error:
            raise _refused(f"making pool {self._pool} in som.ko", error) from error

    def remove(self, start: int) -> None:
        """See `seams.RangeHold`."""
        doing = f"taking the memory at {start:#x} out of pool {self._pool}"
        if (info := self.info()) is None:
            raise seams.RangeRefused(f"{doing}: som.ko has no such pool", errno.ENOENT)
        try:
            self._module.call(abi.PoolRemove(pool=info.pool, start=start))
        except control.KernelError as error:
            raise _refused(doing, error) from error

    def failed(self, address: int) -> None:
        """See `seams.RangeHold`."""
        self._module.call(abi.MemoryFailed(address=address))

    def empty(self, span: seams.Span, *, most_bytes: int) -> None:
        """See `seams.RangeHold`."""
        if (info := self.info()) is None:
            return
        wanted = abi.PoolCompact(
            pool=info.pool, start=span.start, bytes=span.size_bytes, most_bytes=most_bytes
        )
        try:
            self._module.call(wanted)
        except control.KernelError as error:
            doing = f"emptying {_range(span.start, span.size_bytes)} of pool {self._pool}"
            raise _refused(doing, error) from error

    def compact(self, most_bytes: int) -> int:
        """See `seams.Driver`."""
        if (info := self.info()) is None:
            return 0
        wanted = abi.PoolCompact(pool=info.pool, most_bytes=most_bytes)
        return int(self._module.call(wanted).moved_bytes)

    def promote(self, most_bytes: int) -> seams.Promotion:
        """See `seams.Driver`."""
        if (info := self.info()) is None:
            return seams.Promotion(0, 0)
        done = self._module.call(abi.PoolPromote(pool=info.pool, most_bytes=most_bytes))
        return seams.Promotion(done.moved_bytes, done.asked_bytes)

    def moves(self) -> seams.Moves | None:
        """See `seams.Driver`."""
        info = self.info()
        if info is None or info.mapping != abi.MAPPING_BARE:
            return None
        return self._module.moves(info.pool)

    def destroy(self) -> None:
        """See `seams.RangeHold`."""
        if (info := self.info()) is None:
            return
        try:
            self._module.call(abi.PoolDestroy(pool=info.pool))
        except control.KernelError as error:
            if error.errno != errno.ENOENT:
                raise _refused(f"giving back pool {self._pool}", error) from error


def _range(start: int, size_bytes: int) -> str:
    return f"{start:#x}-{start + size_bytes - 1:#x} ({v1alpha1.format_bytes(size_bytes)})"


def _refused(doing: str, error: control.KernelError) -> seams.RangeRefused:
    why = f"{error} ({_CURES[error.errno]})" if error.errno in _CURES else str(error)
    return seams.RangeRefused(f"{doing}: {why}", error.errno)
