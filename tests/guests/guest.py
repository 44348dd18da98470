"""A virtual machine that boots one Debian kernel, runs a plan of tests and powers off.

The guest has two serial ports: on the first the kernel and the tests talk (the console), on the
second `init` writes one line per test. QEMU emulates the processor; the two flags below
keep it from corrupting its guests (`thread=multi` while the kernel patches its own text, and
cmpxchg16b in QEMU 7.2), so an `Oops: int3` is a fault of the bench, not of the module. Without
`erms` and `fsrm` kernels clear memory by words, which the emulator does eight times faster.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from guests import debian

INIT = Path(__file__).parent / "init"
# What no test may leave on the console. Programs talk there too: the kernel's lines have its time.
ALARMS = re.compile(
    r"\[ *\d+\.\d{6}\].*("
    r"BUG|WARNING|WARN_ON|Oops|[Bb]ad (page|pud|pmd|pte|rss-counter)|refcount_t|lockdep"
    r"|possible (circular|recursive) locking|KASAN|KFENCE|UBSAN|Call Trace|Kernel panic"
    r"|general protection|unable to handle|blocked for more than|self-detected stall"
    r"|detected stalls|oom-kill|Out of memory|Object already free|Redzone|Poison overwritten"
    r"|sleeping function|list_(add|del) corruption|x86/PAT|memtype_|corrupted page table"
    r"|page allocation failure|Objects remaining"
    r")"
)
NOT_ALARMS = re.compile(
    r"x86/PAT: Configuration|WARNING: CPU\S* .*microcode|Command line:|lockdep checking is enabled"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Test:
    """One line of a guest's plan. `command` exits 0 (passed), 77 (skipped) or else failed.

    `always`: the others of its boot need it, so it runs with any of them. `complains`: the kernel
    must complain on the console, which it may not during other tests. `excused`: what it may say
    all the same, as a regular expression.
    """

    name: str
    command: str
    limit_s: int = 120
    always: bool = False
    complains: bool = False
    excused: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual hardware and the kernel's command line; `hardware`: more words for QEMU.

    `modules`: of the kernel's own, loaded in this order. `tsc`: what the kernel is told of that
    counter. Unless it is "reliable", each look at the clock leaves the emulated processor, which is
    exact, and slow for programs that look all the time.
    """

    memory: str
    tsc: str = "unstable"
    nodes: tuple[str, ...] = ()
    append: str = ""
    modules: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int
    seconds: float
    message: str
    console: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a boot left behind: `outcomes` by test name, and the whole console."""

    outcomes: Mapping[str, Outcome]
    console: str
    finished: bool


def alarms(console: str, tests: Sequence[Test] = ()) -> list[str]:
    """Lines in which the kernel complains, but for what `tests` excuse."""
    for excused in {test.excused for test in tests if test.excused}:
        console = re.sub(excused, "", console, flags=re.DOTALL)
    return [
        line for line in console.splitlines() if ALARMS.search(line) and not NOT_ALARMS.search(line)
    ]


def initramfs(kernel: debian.Kernel, files: Mapping[str, Path], machine: Machine) -> bytes:
    """A gzipped cpio of busybox, `files` (guest path: file here) and the kernel's own modules."""
    with tempfile.TemporaryDirectory(prefix="som-initramfs-") as made:
        root = Path(made)
        for name in ("bin", "dev", "proc", "sys", "tmp", "modules"):
            (root / name).mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        shutil.copy(INIT, root / "init")
        (root / "init").chmod(0o755)
        for target, source in files.items():
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / target)
        # Debian's own modules may be compressed; one built in is not there at all.
        found = {
            f"{module}.ko": packed
            for module in machine.modules
            for packed in kernel.modules.glob(f"**/{module}.ko*")
        }
        for module, packed in found.items():
            plain = subprocess.run(["xz", "-dcf", packed], capture_output=True, check=True)
            (root / "modules" / module).write_bytes(plain.stdout)
        (root / "modules/order").write_text("".join(f"{module}\n" for module in found))
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*"))).encode()
        cpio = ["cpio", "-o", "-H", "newc", "--quiet"]
        packed_all = subprocess.run(cpio, cwd=root, input=names, capture_output=True, check=True)
        return gzip.compress(packed_all.stdout, compresslevel=1)


def run(
    kernel: debian.Kernel,
    machine: Machine,
    files: Mapping[str, Path],
    tests: Sequence[Test],
    log: Path,
) -> Run:
    """Boots `kernel`, runs `tests` in order and returns what came of each.

    `log` is a directory for the console and the results; it stays for the reader.
    """
    log.mkdir(parents=True, exist_ok=True)
    plan, initrd = log / "plan", log / "initrd"
    console, results = log / "console", log / "results"
    limits_s = [test.limit_s * kernel.slowness for test in tests]
    plan.write_text(
        "".join(
            f"{test.name} {limit_s} {test.command}\n"
            for test, limit_s in zip(tests, limits_s, strict=True)
        )
    )
    initrd.write_bytes(initramfs(kernel, {**files, "plan": plan}, machine))
    ports = (f"file:{console}", f"file:{results}")
    command = ["nice", "-n", "10", *emulator(kernel, machine, initrd, ports), "-no-reboot"]
    finished = True
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            timeout=60 * kernel.slowness + sum(limits_s),
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        finished = False
    finally:
        initrd.unlink()
    said = console.read_text(errors="replace").replace("\r", "")
    lines = results.read_text(errors="replace").replace("\r", "").splitlines()
    return Run(
        outcomes=dict(outcome_of(line, said) for line in lines if line[:1].isdigit()),
        console=said,
        finished=finished and "done" in lines,
    )


def emulator(
    kernel: debian.Kernel, machine: Machine, initrd: Path, ports: Sequence[str]
) -> list[str | Path]:
    """QEMU's command; `ports`: where each serial port leads, the console first."""
    return [
        "qemu-system-x86_64",
        "-accel", "tcg,thread=single,tb-size=1024", "-cpu", "max,-cx16,-erms,-fsrm", "-smp", "2",
        "-m", machine.memory, *numa(machine), "-nodefaults", "-no-user-config",
        "-display", "none", "-monitor", "none",
        *(word for port in ports for word in ("-serial", port)),
        "-kernel", kernel.image, "-initrd", initrd,
        "-append",
        "console=ttyS0 printk.time=1 loglevel=7 panic=-1 oops=panic nokaslr mitigations=off "
        f"tsc={machine.tsc} "
        "no_timer_check random.trust_cpu=on rcupdate.rcu_cpu_stall_timeout=120 watchdog_thresh=60 "
        f"{kernel.append} {machine.append}", *machine.hardware,
    ]  # fmt: skip


def numa(machine: Machine) -> list[str]:
    """QEMU's words for the sizes of the machine's NUMA nodes."""
    return [
        word
        for number, size in enumerate(machine.nodes)
        for word in (
            "-object", f"memory-backend-ram,id=node{number},size={size}",
            "-numa", f"node,memdev=node{number}",
        )
    ]  # fmt: skip


def outcome_of(line: str, console: str) -> tuple[str, Outcome]:
    code, name, began, ended, *message = line.split(" ", 4)
    _, _, part = console.partition(f"som-test: begin {name}\n")
    part, _, _ = part.partition("som-test: begin ")
    return name, Outcome(
        code=int(code),
        seconds=float(ended) - float(began),
        message=message[0] if message else "",
        console=part,
    )
