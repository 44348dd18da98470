"""Kernel memory per GiB: som.ko's Bare pools beside huge pages and ordinary pages.

One JSON line per figure, measured inside virtual machines by `tests/driver/guest/t_overhead.c`:
what the kernel holds per GiB that one process has mapped and touched, page tables included. Figures
of kernels differ by the sizes of their objects, not by chance; runs agree to a few hundred bytes.

    sudo PYTHONPATH=tests .venv/bin/python benchmarks/driver_overhead.py --kernel 6.12
"""

import argparse
import sys

from driver import bench as benches
from driver import plans
from guests import debian


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
        print("\n".join(line for line in run.console.splitlines() if line.startswith("{")))
        for name, outcome in run.outcomes.items():
            if outcome.code:
                print(f"{kernel}: {name}: {outcome.message}", file=sys.stderr)
                failed = True
    bench.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
