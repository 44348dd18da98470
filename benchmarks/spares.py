"""From request to touched memory: zeroed ahead (a spare), not ahead, and native huge pages.

One JSON line per figure, the three kinds in turn. Of som it is kubelet's calls (Allocate and
PreStartContainer) and what the program does, apart and as a sum; the native program zeroes its
pages itself. What was zeroed ahead was zeroed all the same: `zeroing ahead` says how long that
took, of half a core.

    sudo .venv/bin/python benchmarks/spares.py --rounds 5
"""

import argparse
import contextlib
import json
import sqlite3
import statistics
import subprocess
import time
from typing import Final

import local

FIGURES: Final = {
    "sum": "som: request to touched memory, zeroed ahead",
    "calls": "som: kubelet's calls, zeroed ahead",
    "pages": "som: mapped, and one write to each 2 MiB",
    "touch": "som: mapped, and one write to each 4 KiB",
    "cold": "som: request to touched memory, not ahead",
    "native": "native hugetlb: mapped and touched",
    "ahead": "zeroing ahead",
}
MOST_NATIVE_MIB: Final = 4096
"""Beside the pool, no more has to fit into this machine."""


def wait_spares(som: local.Local, *, mib: int) -> float:
    """Seconds until so much is zeroed ahead, in one piece, or nothing."""
    begun = time.monotonic()
    with contextlib.closing(sqlite3.connect(som.state_dir / "som.db")) as store:
        while [size >> 20 for (size,) in store.execute(local.SPARES)] != ([mib] if mib else []):
            time.sleep(0.05)
    return time.monotonic() - begun


def touched(output: str | bytes) -> float:
    """Seconds in which the program has mapped and touched its memory."""
    said = json.loads(output)
    return float(said["prepare_s"] + said["use_s"])


def from_request(som: local.Local, program: str, *, mib: int) -> dict[str, float]:
    """Seconds of kubelet's calls, and of the program in a container of som."""
    done = som.run(mib, [program, "som", str(mib)])
    said = json.loads(done.output)
    calls, touch = done.ready["allocate_s"] + done.ready["pre_start_s"], touched(done.output)
    pages = said["prepare_s"] + said["pages_s"]
    return {"calls": calls, "pages": pages, "touch": touch, "sum": calls + touch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 1024, 4096, 8192])
    arguments = parser.parse_args()
    rounds, sizes_mib = arguments.rounds, sorted(arguments.mib)
    medians: dict[str, list[float]] = {"sum": [], "calls": []}
    with (
        local.compiled("first_touch") as program,
        local.pool(mib=sizes_mib[-1]) as som,
        local.native_pages(mib=min(sizes_mib[-1], MOST_NATIVE_MIB)),
    ):
        for mib in sizes_mib:
            seconds: dict[str, list[float]] = {kind: [] for kind in FIGURES}
            for counted in range(-1, rounds):
                took = {}
                som.order(warm_mib=0)
                wait_spares(som, mib=0)
                took["cold"] = from_request(som, program, mib=mib)["sum"]
                som.wait_released()
                som.order(warm_mib=mib)
                took["ahead"] = wait_spares(som, mib=mib)
                took |= from_request(som, program, mib=mib)
                som.wait_released()
                if mib <= MOST_NATIVE_MIB:
                    native = [program, "hugetlb", str(mib)]
                    took["native"] = touched(
                        subprocess.run(native, check=True, capture_output=True).stdout
                    )
                for kind, value in took.items() if counted >= 0 else ():
                    seconds[kind].append(value)
            for kind, figure in FIGURES.items():
                if seconds[kind]:
                    local.figure(figure, seconds[kind], unit="s", mib=mib)
            if seconds["native"]:
                pairs = zip(seconds["sum"], seconds["native"], strict=True)
                local.figure("warm / native", [a / b for a, b in pairs], unit="ratio", mib=mib)
            for kind, values in medians.items():
                values.append(statistics.median(seconds[kind]))
        for kind, values in medians.items():
            spread = [value / values[0] for value in values]
            local.figure(f"{FIGURES[kind]}, beside the smallest size", spread, unit="ratio")


if __name__ == "__main__":
    main()
