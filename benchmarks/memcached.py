"""memcached restarts with its items: in memory of som that is kept, and in a file of a tmpfs.

One JSON line per figure, the kinds in turn. A restart is timed until memcached says that it has all
items; that of som begins with kubelet's PreStartContainer, which finds the memory intact. Filling
is what a restart without its items costs at least: an empty memcached, and a client on the same
machine that sends them as fast as they are taken. Not timed: the rest of the second in which
memcached stopped, before which it does not go on; and the check that each item is as it was.

    sudo .venv/bin/python benchmarks/memcached.py --mib 1024 --rounds 5
"""

import argparse
import asyncio
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Final

import kept
import local

from node import caches, containers

USED: Final = 0.7
"""Of its memory: nothing is evicted."""
BATCH: Final = 256


class Items:
    """`count` of them, `size` bytes each."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._value = b"v" * size

    async def fill(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Store all; returns when they are there."""
        head = b"set k%d 0 0 %d noreply\r\n"
        for keys in self._batches():
            lines = (head % (key, len(self._value)) + self._value + b"\r\n" for key in keys)
            writer.write(b"".join(lines))
            await writer.drain()
        await self.are_there(reader, writer)

    async def are_there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Returns when memcached has said that it has all; it does not answer before."""
        writer.write(b"stats\r\n")
        found = -1
        while (line := await reader.readline()) != b"END\r\n":
            if line.startswith(b"STAT curr_items "):
                found = int(line.split()[2])
        if found != self._count:
            raise SystemExit(f"memcached has {found} of {self._count} items")

    async def check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each is as it was."""
        for keys in self._batches():
            writer.write(b"".join(b"get k%d\r\n" % key for key in keys))
            for key in keys:
                head = b"VALUE k%d 0 %d\r\n" % (key, len(self._value))
                expected = head + self._value + b"\r\nEND\r\n"
                if await reader.readexactly(len(expected)) != expected:
                    raise SystemExit(f"item {key} is not as it was")

    def _batches(self) -> Iterator[range]:
        for first in range(0, self._count, BATCH):
            yield range(first, min(first + BATCH, self._count))


async def fill_and_restart(start: kept.Start, items: Items, size_bytes: int) -> dict[str, float]:
    """Seconds until all items are stored, and, after a restart, until all are there again."""
    took = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.chown(folder, 1000, 1000)
        (folder / "mem").symlink_to(containers.DEVICE)
        for run, step in {"fill_s": items.fill, "restart_s": items.are_there}.items():
            begun = time.monotonic()
            place = caches.memcached(folder, await start(), size_bytes=size_bytes, state_dir=folder)
            async with place as connection:
                await step(*connection)
                took[run] = time.monotonic() - begun
                await items.check(*connection)
            await caches.next_second()
    return took


async def measure(mib: int, rounds: int, value_bytes: int) -> None:
    size_bytes = mib << 20
    items = Items(int(size_bytes * USED) // value_bytes, value_bytes)
    results: dict[str, list[dict[str, float]]] = {"som": [], "tmpfs": []}
    async with kept.agent(mib=mib) as world:
        for counted in range(-1, rounds):
            for kind, place in {"som": kept.pod(world, mib=mib), "tmpfs": kept.tmpfs()}.items():
                async with place as start:
                    took = await fill_and_restart(start, items, size_bytes)
                if counted >= 0:
                    results[kind].append(took)
    for kind, runs in results.items():
        for name in ("fill_s", "restart_s"):
            values = [run[name] for run in runs]
            local.figure(f"{kind} {name}", values, unit="s", mib=mib, value_bytes=value_bytes)
        ratios = [run["fill_s"] / run["restart_s"] for run in runs]
        local.figure(f"{kind} fill / restart", ratios, unit="ratio", value_bytes=value_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024, help="memory of memcached")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--value", type=int, default=4000, help="bytes of each item's value")
    given = parser.parse_args()
    subprocess.run([local.HERE.parent / "tests/install-packages", "memcached"], check=True)
    asyncio.run(measure(given.mib, given.rounds, given.value))


if __name__ == "__main__":
    main()
