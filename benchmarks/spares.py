"""From request to touched memory: zeroed ahead (a spare), not ahead, and native huge pages.

One JSON line per figure, the three kinds in turn. Of som it is kubelet's calls (Allocate and
PreStartContainer) and what the program does; the native program zeroes its pages itself. What was
zeroed ahead was zeroed all the same: `zeroing ahead` says how long that took, of half a core.

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

MOST_NATIVE_MIB: Final = 4096
"""Beside the pool, no more has to fit into this machine."""


def wait_spares(som: local.Local, *, mib: int) -> float:
    """Seconds until so much is zeroed ahead, in one piece, or nothing."""
    query = """
    SELECT starts.size_bytes FROM starts JOIN leases USING (lease_id)
    WHERE ticket = '' AND NOT ended AND state = 'ready'
    """
    begun = time.monotonic()
    with contextlib.closing(sqlite3.connect(som.state_dir / "som.db")) as store:
        while [size >> 20 for (size,) in store.execute(query)] != ([mib] if mib else []):
            time.sleep(0.05)
    return time.monotonic() - begun


def touched(output: str | bytes) -> float:
    """Seconds in which the program has mapped and touched its memory."""
    said = json.loads(output)
    return float(said["prepare_s"] + said["use_s"])


def from_request(som: local.Local, program: str, *, mib: int) -> float:
    """Seconds of kubelet's calls and of the program in a container of som."""
    done = som.run(mib, [program, "som", str(mib)])
    return done.ready["allocate_s"] + done.ready["pre_start_s"] + touched(done.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 1024, 4096, 8192])
    arguments = parser.parse_args()
    rounds, sizes_mib = arguments.rounds, sorted(arguments.mib)
    medians = {}
    with (
        local.compiled("first_touch") as program,
        local.pool(mib=sizes_mib[-1]) as som,
        local.native_pages(mib=min(sizes_mib[-1], MOST_NATIVE_MIB)),
    ):
        for mib in sizes_mib:
            seconds: dict[str, list[float]] = {"warm": [], "cold": [], "native": [], "ahead": []}
            for counted in range(-1, rounds):
                took = {}
                som.order(warm_mib=0)
                wait_spares(som, mib=0)
                took["cold"] = from_request(som, program, mib=mib)
                som.wait_released()
                som.order(warm_mib=mib)
                took["ahead"] = wait_spares(som, mib=mib)
                took["warm"] = from_request(som, program, mib=mib)
                som.wait_released()
                if mib <= MOST_NATIVE_MIB:
                    native = [program, "hugetlb", str(mib)]
                    took["native"] = touched(
                        subprocess.run(native, check=True, capture_output=True).stdout
                    )
                for kind, value in took.items() if counted >= 0 else ():
                    seconds[kind].append(value)
            for kind, figure in {
                "warm": "som: request to touched memory, zeroed ahead",
                "cold": "som: request to touched memory, not ahead",
                "native": "native hugetlb: mapped and touched",
                "ahead": "zeroing ahead",
            }.items():
                if seconds[kind]:
                    local.figure(figure, seconds[kind], unit="s", mib=mib)
            if seconds["native"]:
                pairs = zip(seconds["warm"], seconds["native"], strict=True)
                local.figure("warm / native", [a / b for a, b in pairs], unit="ratio", mib=mib)
            medians[mib] = statistics.median(seconds["warm"])
        spread = [value / medians[sizes_mib[0]] for value in medians.values()]
        local.figure("warm, beside the smallest size", spread, unit="ratio")


if __name__ == "__main__":
    main()
