"""Kernel memory per GiB: som.ko's Bare pools beside what a user would pick instead.

One JSON line per figure, measured inside virtual machines by `tests/driver/guest/t_overhead.c`:
what the kernel holds per GiB that one process has mapped and touched, page tables included, and
what the node sees of it in MemTotal, Slab and PageTables. A ratio stands beside each figure that
has an alternative. Figures of kernels differ by the sizes of their objects, not by chance: those
of the Bare pools agree to a few hundred bytes, the others, in which a whole node has its part, to
0.1 MiB (a carved pool to 0.3 MiB, which is more than it costs: it may come out below nothing).

    sudo PYTHONPATH=tests .venv/bin/python benchmarks/driver_overhead.py --kernel 6.12
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from driver import bench as benches
from driver import plans
from guests import debian

WITHOUT_HVO: Final = "HugeTLB 2 MiB without HVO"
INSTEAD: Final = {
    "Bare pool, 2 MiB entries": WITHOUT_HVO,
    "Bare pool, 1 GiB entries": WITHOUT_HVO,
    "carved pool": "ordinary pages",
    "devdax pool": "devdax with its driver",
    "HugeTLB 2 MiB with HVO": WITHOUT_HVO,
    WITHOUT_HVO: "ordinary pages",
}


def figures(console: str) -> Iterator[dict[str, Any]]:
    """The figures of one guest, with the ratios to what a user would pick instead."""
    said = [json.loads(line) for line in console.splitlines() if line.startswith("{")]
    values = {each["what"]: each["value"] for each in said}
    for each in said:
        yield each
        if (instead := INSTEAD.get(each["what"])) in values:
            ratio = round(each["value"] / values[instead], 5)
            yield {**each, "what": f"{each['what']} / {instead}", "value": ratio, "unit": "ratio"}


def main() -> int:
    """Runs the measurements on the kernels chosen; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", choices=debian.SERIES, action="append")
    kernels = parser.parse_args().kernel or list(debian.SERIES)
    if missing := benches.requirements_missing():
        print(missing, file=sys.stderr)
        return 1
    boot = next(boot for boot in plans.BOOTS if boot.name == "overhead")
    bench = benches.Bench({(kernel, boot): boot.tests for kernel in kernels})
    failed = False
    for kernel in kernels:
        run = bench.run(kernel, boot)
        for figure in figures(run.console):
            print(json.dumps(figure))
        for name, outcome in run.outcomes.items():
            if outcome.code:
                print(f"{kernel}: {name}: {outcome.message}", file=sys.stderr)
                failed = True
    bench.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
