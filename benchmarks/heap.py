"""A heap in som memory by libsom, beside what glibc takes from the kernel.

One JSON line per figure. The same program, unchanged, in turn: in 4 KiB pages, with transparent
huge pages (`glibc.malloc.hugetlb=1`), and under `som-run`. som's memory is zeroed before the
program starts: `som prepare_s` says how long that takes.

    make libsom && sudo .venv/bin/python benchmarks/heap.py --mib 2048 --rounds 5
"""

import argparse
import json
import os
import pathlib
import subprocess
from typing import Final

import local

SOM_RUN: Final = pathlib.Path(__file__).parents[1] / "build/libsom/som-run"
KINDS: Final = ("4k", "thp", "som")
FIRST_MIB: Final = 64
"""What libsom leaves in ordinary memory or takes for itself, and more."""


def measure(kind: str, program: str, mib: int, hops: int, som: local.Local) -> dict[str, float]:
    """Seconds and nanoseconds of one run of one kind."""
    command = [program, "4k" if kind == "4k" else "given", str(mib), str(hops)]
    figures: dict[str, float]
    if kind == "som":
        run = som.run(mib + FIRST_MIB, [str(SOM_RUN), *command])
        figures = json.loads(run.output)
        return {**figures, "prepare_s": run.ready["pre_start_s"]}
    tunables = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if kind == "thp" else {}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **tunables}
    )
    figures = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048, help="size of the heap")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--hops", type=int, default=10_000_000, help="steps through the heap")
    given = parser.parse_args()
    if not SOM_RUN.exists():
        raise SystemExit(f"there is no {SOM_RUN}: make libsom")
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with local.compiled("heap") as program, local.pool(mib=given.mib + FIRST_MIB) as som:
        for counted in range(-1, given.rounds):
            for kind in KINDS:
                figures = measure(kind, program, given.mib, given.hops, som)
                if counted >= 0:
                    results[kind].append(figures)
    own = results["som"]
    local.figure("som prepare_s", [run["prepare_s"] for run in own], unit="s", mib=given.mib)
    for name, unit in (("fill_s", "s"), ("hop_ns", "ns")):
        for kind in KINDS:
            values = [run[name] for run in results[kind]]
            local.figure(f"{kind} {name}", values, unit=unit, mib=given.mib)
        for kind in KINDS[:-1]:
            ratios = [a[name] / b[name] for a, b in zip(results[kind], own, strict=True)]
            local.figure(f"{kind} / som, {name}", ratios, unit="ratio", mib=given.mib)


if __name__ == "__main__":
    main()
