"""som-operator as it is, in a process that counts its plans: for `fleet.py`.

    python benchmarks/counted_operator.py COUNTS [--profile=FILE] OPERATOR-ARGUMENTS

`COUNTS` is a file of two numbers of 64 bits: plans, and those of them that a change of the
SomPools caused. With `--profile` there is a profile at the end (`python -m pstats FILE`).
"""

import atexit
import cProfile
import mmap
import pathlib
import struct
import sys
from typing import Any, Final

from som_api.plan import plan
from som_operator import main

COUNTS: Final = struct.Struct("=QQ")


def read(path: pathlib.Path) -> tuple[int, int]:
    """(plans, plans that a change of the SomPools caused)."""
    total, by_pools = COUNTS.unpack(path.read_bytes())
    return int(total), int(by_pools)


def _count(path: pathlib.Path) -> None:
    path.write_bytes(bytes(COUNTS.size))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), COUNTS.size)
    planned_with: dict[str, object] = {}
    original, total, by_pools = plan.plan_node, 0, 0

    def counted(pools: Any, node: Any, *arguments: Any, **more: Any) -> plan.NodePlan:
        nonlocal total, by_pools
        total += 1
        by_pools += planned_with.get(node.name) is not pools
        planned_with[node.name] = pools
        COUNTS.pack_into(shared, 0, total, by_pools)
        return original(pools, node, *arguments, **more)

    plan.plan_node = counted


def _profile(path: str) -> None:
    profile = cProfile.Profile()
    atexit.register(profile.dump_stats, path)
    atexit.register(profile.disable)
    profile.enable()


if __name__ == "__main__":
    _count(pathlib.Path(sys.argv[1]))
    words = sys.argv[2:]
    if words[0].startswith("--profile="):
        _profile(words.pop(0).partition("=")[2])
    main.main(words)
