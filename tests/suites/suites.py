"""The suites: where each comes from, how it runs, and how its output is read."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import xml.etree.ElementTree
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from guests import debian

SOURCES: Final = debian.Series(
    suite="bookworm-sources", lists=debian.BOOKWORM, prefix="", kind="deb-src"
)
PROGRAMS: Final = pathlib.Path(__file__).parent / "programs"
LTP: Final = os.environ.get("LTP", "")
"""Where LTP was built, which Debian has no package of; "" leaves it out."""
DID_NOT_END: Final = "(the suite did not come to its end)"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of a suite said: how many tests passed, which failed, and what it found."""

    passed: int
    failed: frozenset[str]
    found: str = ""

    @classmethod
    def read(cls, passed: int, failed: Sequence[str], *, ended: bool, found: str = "") -> "Outcome":
        return cls(passed, frozenset([*failed, *([] if ended else [DID_NOT_END])]), found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite in a folder of its own, where `make` prepares it and returns its version.

    `takes` is the program whose heap is to be in the lease from the start. What fails with libsom
    only and has to is in `explained`, with the reason.
    """

    name: str
    packages: tuple[str, ...]
    takes: str
    make: Callable[[pathlib.Path], str]
    command: tuple[str, ...]
    read: Callable[[pathlib.Path, str], Outcome]
    limit_s: int = 600
    explained: Mapping[str, str] = dataclasses.field(default_factory=dict)


def source(package: str) -> pathlib.Path:
    """The source of a package of Debian 12, unpacked once into the cache."""
    folder = debian.CACHE / "sources" / package
    with debian.cache_locked():
        if not folder.exists():
            debian.update(SOURCES)
            partial = folder.with_name(f"{package}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            debian.apt(SOURCES, "apt-get", "-qq", "source", package, cwd=partial)
            partial.rename(folder)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def version(package: str) -> str:
    """The version of an installed Debian package."""
    words = ["dpkg-query", "-W", "-f", "${source:Upstream-Version}", package]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def compile_c(*words: str | pathlib.Path) -> None:
    subprocess.run(["gcc", "-O2", "-w", *words], check=True)


def make_mimalloc(folder: pathlib.Path) -> str:
    unpacked = source("mimalloc")
    stress = unpacked / "test/test-stress.c"
    compile_c("-DUSE_STD_MALLOC", "-DNDEBUG", "-o", folder / "stress", stress, "-pthread")
    return unpacked.name.rpartition("-")[2]


def make_python(folder: pathlib.Path) -> str:
    return version("python3.11")


def make_sqlite(folder: pathlib.Path) -> str:
    unpacked = source("sqlite3")
    compile_c("-o", folder / "speedtest1", unpacked / "test/speedtest1.c", "-lsqlite3", "-lm")
    return version("sqlite3")


def make_redis(folder: pathlib.Path) -> str:
    unpacked = source("redis")
    shutil.copytree(unpacked / "tests", folder / "tests")
    shutil.copy(unpacked / "redis.conf", folder)
    (folder / "src").mkdir()
    for name in ("server", "cli", "benchmark", "check-aof", "check-rdb"):
        (folder / f"src/redis-{name}").symlink_to(f"/usr/bin/redis-{name}")
    return version("redis-server")


def make_memcached(folder: pathlib.Path) -> str:
    unpacked = source("memcached")
    shutil.copytree(unpacked / "t", folder / "t")
    # An option of builds with seccomp, which Debian's is not.
    library = folder / "t/lib/MemcachedTest.pm"
    library.write_text(library.read_text().replace("-o relaxed_privileges", ""))
    for name in ("memcached", "memcached-debug"):
        (folder / name).symlink_to("/usr/bin/memcached")
    compile_c("-o", folder / "timedrun", unpacked / "timedrun.c")
    return version("memcached")


def make_start(program: str, package: str) -> Callable[[pathlib.Path], str]:
    def make(folder: pathlib.Path) -> str:
        shutil.copy(PROGRAMS / program, folder)
        return version(package)

    return make


def make_ltp(folder: pathlib.Path) -> str:
    shutil.copy(PROGRAMS / "ltp.sh", folder)
    return (pathlib.Path(LTP) / "VERSION").read_text().strip()


def read_lines(folder: pathlib.Path, output: str, last: str) -> Outcome:
    passed = re.findall("^ok (.+)$", output, re.M)
    return Outcome.read(
        len(passed), re.findall("^not ok (.+)$", output, re.M), ended=last in passed
    )


def read_ltp(folder: pathlib.Path, output: str) -> Outcome:
    left_out = re.findall("^left out (.+)$", output, re.M)
    return dataclasses.replace(read_lines(folder, output, "the end"), found=" ".join(left_out))


def read_junit(folder: pathlib.Path, output: str) -> Outcome:
    file = folder / "junit.xml"
    if not file.exists():
        return Outcome.read(0, [], ended=False)
    cases = list(xml.etree.ElementTree.parse(file).iter("testcase"))
    failed = [each for each in cases if {"failure", "error"} & {child.tag for child in each}]
    names = [each.attrib["name"] for each in failed]
    skipped = sum(each.find("skipped") is not None for each in cases)
    file.unlink()
    return Outcome.read(len(cases) - skipped - len(failed), names, ended=True)


def read_speedtest(folder: pathlib.Path, output: str) -> Outcome:
    steps = re.findall(r"^ *\d+ - .*\.\.+ +[0-9.]+s", output, re.M)
    found = re.search("Verification Hash: (.*)", output)
    return Outcome.read(
        len(steps), [], ended=" TOTAL" in output, found=found.group(1) if found else ""
    )


def read_redis(folder: pathlib.Path, output: str) -> Outcome:
    passed = len(re.findall(r"^\[ok\]: ", output, re.M))
    failed = re.findall(r"^\[(?:err|exception)\]: (.*?)(?: in tests/\S+)?$", output, re.M)
    ended = "All tests passed without errors" in output or "The following tests failed" in output
    return Outcome.read(passed, failed, ended=ended)


def read_tap(folder: pathlib.Path, output: str) -> Outcome:
    file, passed, failed = "", 0, list[str]()
    for line in output.splitlines():
        if match := re.match(r"(t/\S+\.t) \.\.+ *$", line):
            file = match.group(1)
        elif re.match(r"ok \d", line):
            passed += 1
        elif match := re.match(r"not ok \d+(.*)", line):
            failed.append(f"{file}{match.group(1)}")
        elif match := re.match(r"(t/\S+\.t)\s+\(Wstat", line):
            failed.append(match.group(1))
    return Outcome.read(passed, failed, ended="\nResult: " in output)


def python(name: str, *words: str, **more: Any) -> Suite:
    """A part of Python's own tests; `words` are for `python3 -m test`, `more` for the Suite."""
    return Suite(
        name=f"Python: {name}",
        packages=("python3.11", "libpython3.11-testsuite"),
        takes="python3",
        make=make_python,
        command=(
            # Without this Python takes small objects from the kernel itself.
            *("env", "PYTHONMALLOC=malloc", "/usr/bin/python3", "-m", "test"),
            *("--timeout=240", "--junit-xml=junit.xml", *words),
        ),
        read=read_junit,
        **more,
    )


REDIS: Final = (
    *("unit/type/string", "unit/type/hash", "unit/multi", "unit/other", "unit/aofrw"),
    *("integration/rdb", "integration/aof"),
)
MEMCACHED: Final = (
    *("cas", "chunked-items", "evictions", "getset", "incrdecr", "metaget", "noreply", "touch"),
    *("slabs-reassign2", "unixsocket"),
)

SUITES: tuple[Suite, ...] = (
    Suite(
        name="mimalloc's stress test",
        packages=("gcc", "libc6-dev"),
        takes="stress",
        make=make_mimalloc,
        command=(
            *("sh", "-c"),
            "for what in '4 50 20' '16 20 10' '1 80 20'; do "
            'if ./stress $what; then echo "ok $what"; else echo "not ok $what"; fi; done',
        ),
        read=lambda folder, output: read_lines(folder, output, "1 80 20"),
    ),
    python(
        "threads, fork, processes",
        *("test_thread", "test_threading", "test_fork1", "test_subprocess", "test_signal"),
        *("test_wait4", "test_posix", "test_faulthandler"),
        limit_s=900,
        explained={
            "test.test_threading.ThreadJoinOnShutdown.test_4_daemon_threads": "it wants nothing on "
            "stderr, where a process that finds the lease taken says so"
        },
    ),
    python(
        "memory and objects",
        *("test_gc", "test_mmap", "test_bytes", "test_list", "test_dict", "test_ctypes"),
        *("test_memoryview", "test_array", "test_zlib", "test_re", "test_weakref"),
    ),
    python(
        "multiprocessing by fork",
        *("test_multiprocessing_fork", "-m", "WithProcessesTest*"),
        limit_s=900,
    ),
    Suite(
        name="SQLite's speedtest1",
        packages=("gcc", "libc6-dev", "libsqlite3-dev", "sqlite3"),
        takes="speedtest1",
        make=make_sqlite,
        command=("./speedtest1", "--memdb", "--verify", "--size", "25"),
        read=read_speedtest,
    ),
    Suite(
        name="Redis",
        packages=("redis-server", "redis-tools", "tcl"),
        takes="redis-server",
        make=make_redis,
        command=(
            *("tclsh", "tests/test_helper.tcl", "--clients", "2", "--timeout", "300"),
            *(word for name in REDIS for word in ("--single", name)),
        ),
        read=read_redis,
    ),
    Suite(
        name="memcached",
        packages=("memcached", "perl", "gcc", "libc6-dev"),
        takes="memcached-debug",
        make=make_memcached,
        command=("prove", "-v", *(f"t/{name}.t" for name in MEMCACHED)),
        read=read_tap,
    ),
    Suite(
        name="a JVM",
        packages=("default-jdk-headless",),
        takes="java",
        make=make_start("Start.java", "openjdk-17-jre-headless"),
        command=("java", "Start.java"),
        read=lambda folder, output: read_lines(folder, output, "a garbage collection"),
    ),
    Suite(
        name="Node.js",
        packages=("nodejs",),
        takes="node",
        make=make_start("start.js", "nodejs"),
        command=("node", "start.js"),
        read=lambda folder, output: read_lines(folder, output, "all workers"),
    ),
)

if LTP:
    SUITES += (
        Suite(
            name="LTP: memory",
            packages=("gcc", "libc6-dev"),
            takes="",  # each of its programs
            make=make_ltp,
            command=("bash", "ltp.sh", LTP),
            read=read_ltp,
            explained={
                "clone02": "`clone()` without libc's `fork()`: the child has no heap",
                **dict.fromkeys(
                    ("mallinfo02", "mallinfo2_01", "mallopt01"),
                    "it wants glibc's own heap to be used",
                ),
                **dict.fromkeys(
                    ("mlockall01", "munlockall01"),
                    "the whole lease counts against `ulimit -l`, 8 MiB there",
                ),
            },
        ),
    )
