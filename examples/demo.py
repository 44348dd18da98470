"""`make demo`: from a SomPool's YAML to memory that a process has mapped, on this machine.

Reserves the pool of examples/sompool.yaml, runs a program in it twice, gives everything back, and
says what happened, one line each. Exit codes are those of `som local`: 0 full, 1 failed, 2 wrong
input or machine, 3 partly reserved. Interrupted anywhere, it leaves the machine as it was.
"""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

HERE = pathlib.Path(__file__).resolve().parent
SOM = pathlib.Path(sys.executable).parent / "som"
UNITS = 512
WRONG = 2


class Failed(Exception):
    """A step failed with this exit code; it has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def som(state_dir: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SOM), "local", arguments[0], "--state-dir", str(state_dir), *arguments[1:]]
    # A session of its own: Ctrl-C reaches this process alone, which then calls `down`.
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        print(done.stdout + done.stderr, end="", file=sys.stderr)
        raise Failed(done.returncode)
    return done


def said(label: str, text: str) -> None:
    print(f"{label:13} {text}", flush=True)


def machine(state_dir: pathlib.Path) -> dict[str, int]:
    """What must be the same before and after."""
    pages = pathlib.Path("/sys/kernel/mm/hugepages")
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    processes = 0
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            processes += str(state_dir).encode() in command.read_bytes()
    return {
        "huge pages": sum(int(f.read_text()) for f in pages.glob("*/nr_hugepages")),
        "mounts": len(mounts),
        "processes": processes,
    }


@contextlib.contextmanager
def pool(state_dir: pathlib.Path) -> Iterator[dict[str, object]]:
    """The pool inside the block; given back after it, whatever happened."""
    before = machine(state_dir)
    taken = True
    try:
        up = som(state_dir, "up", "-f", str(HERE / "sompool.yaml"), "--output", "json")
        # Before it, notes say what a slow machine waits for.
        yield json.loads(up.stdout.splitlines()[-1])
    except Failed as failure:
        taken = failure.exit_code != WRONG
        raise
    finally:
        if taken:
            give_back(state_dir, before)


def give_back(state_dir: pathlib.Path, before: dict[str, int]) -> None:
    som(state_dir, "down", "--force")
    after = machine(state_dir)
    changes = ", ".join(f"{what} {n} -> {after[what]}" for what, n in before.items())
    said("given back", f"before and after: {changes}")
    if before != after:
        raise Failed(1)


def tour(state_dir: pathlib.Path, program: pathlib.Path, label: str) -> float:
    """Run the example program in a lease; returns the seconds that som prepared it."""
    run = som(
        *(state_dir, "run", "--request", f"som.io/2Mi={UNITS}", "--output", "json"),
        *("--", str(program)),
    )
    messages = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    (ready,) = [message for message in messages if message["event"] == "ready"]
    said("lease ready", f"{ready['size_bytes']} bytes for the {label} in {ready['ready_s']:.3f} s")
    print(run.stdout, end="", flush=True)
    return float(ready["pre_start_s"])


def demo(directory: pathlib.Path) -> None:
    program = directory / "tour"
    source = HERE / "tour.c"
    subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", "-o", program, source], check=True)
    state_dir = directory / "som"
    state_dir.mkdir(mode=0o700)
    with pool(state_dir) as up:
        status = json.loads(som(state_dir, "status", "--output", "json").stdout)
        (reserved,) = status["pools"]
        nodes = ", ".join(
            f"{each['node']} ({each['capacity_bytes'] >> 20} MiB)" for each in reserved["numa"]
        )
        said(
            "pool reserved",
            f"{up['capacity_bytes']} bytes, {int(up['capacity_bytes']) // int(up['page_bytes'])}"
            f" pages, NUMA node {nodes}, in {up['ready_s']:.2f} s",
        )
        prepared_s = tour(state_dir, program, "first owner")
        said("preparation", f"som had reserved and zeroed it in {prepared_s * 1e3:.0f} ms before")
        tour(state_dir, program, "next owner")


def interrupted(number: int, _: object) -> None:
    # Only once: `down` must not be interrupted as well.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="som-demo-"))
    try:
        demo(directory)
    except Failed as failure:
        return failure.exit_code
    except KeyboardInterrupt as signalled:
        return 128 + int(signalled.args[0])
    finally:
        # `down` has removed its own directory; where it failed, its logs stay.
        (directory / "tour").unlink(missing_ok=True)
        for path in (directory / "som", directory):
            with contextlib.suppress(OSError):
                path.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
