"""A cache of some GiB, from a program's start until devices can use it: kept som memory, a tmpfs.

One JSON line per figure, the kinds in turn: som memory that is kept over the restart, mapped; a
file in a tmpfs, mapped; and the same file read into anonymous memory. Each is then pinned as
io_uring pins its buffers, and looked at once per 4 KiB. That of som begins with kubelet's
PreStartContainer.

    sudo .venv/bin/python benchmarks/cache_file.py --mib 4096 --rounds 5
"""

import argparse
import asyncio
import json
import os
import pathlib
import time
from typing import Final

import kept
import local

STEPS: Final = ("start_s", "content_s", "register_s", "look_s")


async def run(program: str, verb: str, file: pathlib.Path, mib: int) -> dict[str, float]:
    """What the program says of itself; as root, because pinning has a limit for others."""
    process = await asyncio.create_subprocess_exec(
        program, verb, file, str(mib), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{verb} {file}: exit status {process.returncode}")
    figures: dict[str, float] = json.loads(said or "{}")
    return figures


async def restarted(start: kept.Start, program: str, verb: str, mib: int) -> dict[str, float]:
    """Seconds of each step of a container that finds its content."""
    begun = time.monotonic()
    file = await start()
    start_s = time.monotonic() - begun
    figures = {"start_s": start_s, **await run(program, verb, file, mib)}
    return {**figures, "sum_s": sum(figures.values())}


async def measure(program: str, mib: int, rounds: int) -> None:
    results: dict[str, list[dict[str, float]]] = {"som": [], "tmpfs": [], "anonymous": []}
    async with (
        kept.agent(mib=mib) as world,
        kept.pod(world, mib=mib) as own,
        kept.tmpfs() as in_tmpfs,
    ):
        os.truncate(await in_tmpfs(), mib << 20)
        for start in (own, in_tmpfs):
            await run(program, "fill", await start(), mib)
        for counted in range(-1, rounds):
            for kind, runs in results.items():
                start = own if kind == "som" else in_tmpfs
                verb = "read" if kind == "anonymous" else "map"
                figures = await restarted(start, program, verb, mib)
                if counted >= 0:
                    runs.append(figures)
    for kind, runs in results.items():
        for step in (*STEPS, "sum_s"):
            local.figure(f"{kind} {step}", [each[step] for each in runs], unit="s", mib=mib)
    for kind in ("tmpfs", "anonymous"):
        pairs = zip(results[kind], results["som"], strict=True)
        ratios = [other["sum_s"] / own["sum_s"] for other, own in pairs]
        local.figure(f"{kind} / som, sum_s", ratios, unit="ratio", mib=mib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=4096, help="size of the cache")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    given = parser.parse_args()
    with local.compiled("cache_file") as program:
        asyncio.run(measure(program, given.mib, given.rounds))


if __name__ == "__main__":
    main()
