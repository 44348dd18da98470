"""`make test`: every tier that this machine can run, with the time of each.

A tier that cannot run here is skipped with the reason; with CI=true a skip is a failure.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

HUGEPAGES = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


def root_missing() -> str:
    return "" if os.geteuid() == 0 else "needs root: sudo make test"


def huge_pages_missing() -> str:
    if reason := root_missing():
        return reason
    if not os.access(HUGEPAGES, os.W_OK):
        return f"needs huge pages of 2 MiB that can be reserved: {HUGEPAGES} is not writable"
    return ""


def chromium_missing() -> str:
    return "" if shutil.which("chromium") else root_missing()


TIERS: dict[str, Callable[[], str]] = {
    "unit": lambda: "",
    "web": chromium_missing,
    "node": huge_pages_missing,
    "driver": root_missing,
    "vm": root_missing,
    "cluster": huge_pages_missing,
}


def main() -> int:
    in_ci = os.environ.get("CI") == "true"
    lines, failed = [], False
    for tier, missing in TIERS.items():
        if reason := missing():
            lines.append(f"{tier:8} skipped: {reason}")
            failed = failed or in_ci
            continue
        print(f"== make test-{tier}", flush=True)
        begun = time.monotonic()
        code = subprocess.call(["make", "--no-print-directory", f"test-{tier}"])
        failed = failed or code != 0
        outcome = "passed" if code == 0 else f"FAILED (exit {code})"
        lines.append(f"{tier:8} {outcome} in {time.monotonic() - begun:.0f} s")
    print("\n".join(["", *lines]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
