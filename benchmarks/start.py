"""From request to mapped memory, beside native huge pages; kubelet's calls; the agent's memory.

One JSON line per figure, kinds in turn. A start of som includes admission, the ticket, zeroing,
the mount and the namespaces of `som local run`; the native program zeroes its pages itself.

    sudo .venv/bin/python benchmarks/start.py --rounds 9
"""

import argparse
import pathlib
import subprocess
import sys
import time
from typing import Final

import local

SIZES_MIB: Final = (1024, 4096)
SMALL_MIB: Final = 64
IMPORTS: Final = "import som_device_plugin.local.agent, time; time.sleep(60)"


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} has ended")


def import_rss_bytes() -> int:
    """What the agent's imports alone take."""
    with subprocess.Popen([sys.executable, "-c", IMPORTS]) as process:
        seen, deadline = -1, time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = rss_bytes(process.pid)
            if now == seen:
                break
            seen = now
        process.kill()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds")
    rounds = parser.parse_args().rounds
    largest = max(SIZES_MIB)
    with (
        local.compiled("first_touch") as program,
        local.pool(mib=largest) as som,
        local.native_pages(mib=largest),
    ):
        for mib in SIZES_MIB:
            own, native = [], []
            for counted in range(-1, rounds):
                begun = time.monotonic()
                som.run(mib, [program, "som", str(mib)])
                between = time.monotonic()
                subprocess.run([program, "hugetlb", str(mib)], check=True, capture_output=True)
                if counted >= 0:
                    own.append(between - begun)
                    native.append(time.monotonic() - between)
            local.figure("som: request to touched memory", own, unit="s", mib=mib)
            local.figure("native hugetlb: program start to touched", native, unit="s", mib=mib)
            ratios = [a / b for a, b in zip(native, own, strict=True)]
            local.figure("native hugetlb / som", ratios, unit="ratio", mib=mib)
        for beside in ("nothing", "a release"):
            small = []
            for _ in range(3 * rounds):
                if beside == "nothing":
                    som.wait_released()
                small.append(som.run(SMALL_MIB, ["/bin/true"]).ready)
            for call in ("allocate_s", "pre_start_s"):
                values = [ready[call] for ready in small]
                local.figure(call, values, unit="s", mib=SMALL_MIB, beside=beside)
        rss, imports = rss_bytes(som.agent_pid()), import_rss_bytes()
        local.figure("agent RSS", [rss], unit="bytes")
        local.figure("agent RSS above its imports", [rss - imports], unit="bytes")


if __name__ == "__main__":
    main()
