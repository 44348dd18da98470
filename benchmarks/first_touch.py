"""First touch and random reads: som beside what a user would pick instead.

One JSON line per figure. The kinds are measured in turn, round after round, after one round that
is not counted and warms the host's memory, so that each ratio is of neighbours in time. Preparation
(what was done before the program could write), use (one write to each 4 KiB) and their sum stand
beside each other, and CPU seconds with them: nobody should be impressed by work that was moved.

    sudo .venv/bin/python benchmarks/first_touch.py --mib 4096 --rounds 5
"""

import argparse
import json
import pathlib
import subprocess
from typing import Final

import local

KINDS: Final = ("4k", "thp", "hugetlb", "hugetlb-populated", "som")


def children_cpu_s(pid: int) -> float:
    """User and system time of the ended children of `pid`: the workers that zero memory."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[13]) + int(fields[14])) / 100


def measure(kind: str, program: str, mib: int, reads: int, som: local.Local) -> dict[str, float]:
    """Seconds and nanoseconds of one run of one kind."""
    command = [program, kind, str(mib), str(reads)]
    if kind != "som":
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        native: dict[str, float] = json.loads(done.stdout)
        return native
    before = children_cpu_s(som.agent_pid())
    run = som.run(mib, command)
    figures: dict[str, float] = json.loads(run.output)
    figures["prepare_s"] += run.ready["pre_start_s"]
    figures["cpu_s"] += children_cpu_s(som.agent_pid()) - before
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=4096, help="size of the memory")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--reads", type=int, default=5_000_000, help="dependent random reads")
    given = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with (
        local.compiled("first_touch") as program,
        local.pool(mib=given.mib) as som,
        local.native_pages(mib=given.mib),
    ):
        for counted in range(-1, given.rounds):
            for kind in KINDS:
                figures = measure(kind, program, given.mib, given.reads, som)
                figures["sum_s"] = figures["prepare_s"] + figures["use_s"]
                if counted >= 0:
                    results[kind].append(figures)
    for name, unit in (
        ("prepare_s", "s"),
        ("use_s", "s"),
        ("sum_s", "s"),
        ("cpu_s", "s"),
        ("read_ns", "ns"),
    ):
        for kind in KINDS:
            values = [run[name] for run in results[kind]]
            local.figure(f"{kind} {name}", values, unit=unit, mib=given.mib)
    for kind in KINDS[:-1]:
        for name in ("use_s", "sum_s", "cpu_s", "read_ns"):
            pairs = zip(results[kind], results["som"], strict=True)
            ratios = [other[name] / own[name] for other, own in pairs]
            local.figure(f"{kind} / som, {name}", ratios, unit="ratio", mib=given.mib)


if __name__ == "__main__":
    main()
