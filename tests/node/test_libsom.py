"""libsom on a HugeTLBFS lease: what is whose, and that nobody harms anybody."""

import errno
import json
import mmap
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from node import conftest, machine
from som_device_plugin.linux import hugepages

ROOT = pathlib.Path(__file__).parents[2]
SOM = pathlib.Path(sys.executable).parent / "som"
LIBRARY = ROOT / "build/libsom/libsom.so"
MIB = 2**20
PAGE = 2 * MIB
LEASE = 160 * MIB
WATCH_S = 120

HEAP = """
import sys
kept = [bytes([n % 251]) * 4096 for n in range(int(sys.argv[1]) << 8)]
whole = lambda: all(each == bytes([n % 251]) * 4096 for n, each in enumerate(kept))
"""
SMAPS = """
def smaps():
    sizes, name = {"som": 0, "ordinary": 0}, ""
    for line in open("/proc/self/smaps"):
        key, _, value = line.partition(":")
        if "-" in key.split()[0]:
            name = line.rsplit(None, 1)[-1]
        elif key == "Anonymous":
            sizes["ordinary"] += int(value.split()[0]) * 1024
        elif key in ("Shared_Hugetlb", "Private_Hugetlb") and name.endswith("som"):
            sizes["som"] += int(value.split()[0]) * 1024
    return sizes
"""


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """libsom.so of this tree."""
    subprocess.run(["make", "-s", "libsom"], cwd=ROOT, check=True)


@pytest.fixture
def state_dir() -> Iterator[pathlib.Path]:
    """Short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="som-") as parent:
        yield pathlib.Path(parent) / "s"


@pytest.fixture
def lease(own_machine: machine.Snapshot, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file as the HugeTLBFS driver makes it: populated, on a mount of its own size."""
    place = tmp_path / "lease"
    place.mkdir()
    node = hugepages.nodes()[0]
    before = hugepages.node_counts(PAGE, node).persistent
    file = place / "som"
    try:
        hugepages.write_persistent(PAGE, node, before + LEASE // PAGE)
        options = f"pagesize={PAGE},size={LEASE},mode=0755,nosuid,nodev,noexec"
        subprocess.run(["mount", "-t", "hugetlbfs", "-o", options, "none", place], check=True)
        with file.open("wb") as made:
            os.posix_fallocate(made.fileno(), 0, LEASE)
        yield file
    finally:
        subprocess.run(["umount", place], check=False)
        hugepages.write_persistent(PAGE, node, before)


def run(lease: pathlib.Path, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a program under libsom to its end."""
    return subprocess.run(
        command,
        env={**os.environ, "LD_PRELOAD": str(LIBRARY), "SOM_DEVICE": str(lease), **env},
        capture_output=True,
        text=True,
        timeout=WATCH_S,
    )


def python(lease: pathlib.Path, program: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return run(lease, sys.executable, "-c", HEAP + SMAPS + program, "100", **env)


def test_a_python_program_of_local_mode_has_its_heap_in_its_lease(
    own_machine: machine.Snapshot, state_dir: pathlib.Path
) -> None:
    spec = {"unit": "2Mi", "capacity": "256Mi", "source": {"hugeTLB": {"pageSize": "2Mi"}}}
    pool = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "metadata": {"name": "demo"}}
    local = [str(SOM), "local"]
    at = ["--state-dir", str(state_dir)]
    up = [*local, "up", *at, "-f", "-"]
    subprocess.run(up, input=json.dumps({**pool, "spec": spec}), text=True, check=True)
    try:
        words = [*local, "run", *at, "--request", "som.io/2Mi=128", "--"]
        program = HEAP + SMAPS + "import json; print(json.dumps(smaps()), whole())"
        words += [str(LIBRARY.with_name("som-run")), sys.executable, "-c", program, "180"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    finally:
        subprocess.run([*local, "down", *at, "--force"], check=True)
    sizes, whole = done.stdout.rsplit(None, 1)
    found = json.loads(sizes)
    assert whole == "True"
    # Anonymous memory has Python's stack and data beside the heap's first 32 MiB.
    assert found["som"] > 180 * MIB
    assert found["ordinary"] < 60 * MIB


@pytest.mark.parametrize("threads", [1, 4])
def test_a_heap_in_a_used_lease_keeps_what_is_written(
    lease: pathlib.Path, program: conftest.Programs, threads: int
) -> None:
    seed = random.randrange(2**32)
    heap = program("heap", "-pthread")
    for each in (seed, seed + 1):
        done = run(lease, heap, str(each), str(threads), "200", "64")
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"same [1-9][0-9]*\n", done.stdout), (done.stdout, done.stderr)


def test_a_child_that_runs_another_program_does_not_harm_its_parent(lease: pathlib.Path) -> None:
    child = f"{HEAP}print(whole())"
    program = f"""
import subprocess
command = [sys.executable, "-c", {child!r}, "100"]
child = subprocess.run(command, capture_output=True, text=True)
print(child.stdout.strip(), whole(), child.stderr.count("another process"))
"""
    done = python(lease, program)
    assert done.stdout == "True True 1\n", done.stderr
    assert done.stderr == ""


def test_a_lease_stays_with_a_process_that_closes_all_descriptors(lease: pathlib.Path) -> None:
    program = f"""
import os
os.closerange(3, 1000)
print(os.system("{sys.executable} -c 'x = [bytes(4096) for _ in range(40000)]'"), whole())
"""
    done = python(lease, program)
    assert done.stdout == "0 True\n"
    assert done.stderr.count("another process of this container has it") == 1


def test_a_forked_child_has_a_heap_of_its_own(lease: pathlib.Path) -> None:
    program = """
import os
child = os.fork()
if not child:
    mine = smaps()["som"]
    good = whole()
    kept = [b"child" * 1000 for _ in range(20000)]
    os._exit(0 if good and not mine else 1)
print(os.waitpid(child, 0)[1], whole(), smaps()["som"] > 0)
"""
    done = python(lease, program)
    assert done.stdout == "0 True True\n", done.stderr


def test_a_fork_of_a_program_that_locks_its_memory_takes_no_more_than_the_heap(
    lease: pathlib.Path,
) -> None:
    program = f"""
import ctypes, os
def most():
    (line,) = [each for each in open("/proc/self/status") if each.startswith("VmHWM")]
    return int(line.split()[1]) >> 10
del kept[{60 << 8}:]
assert ctypes.CDLL(None).mlockall(3) == 0
before = most()
child = os.fork()
if not child:
    os._exit(0 if whole() else 1)
print(os.waitpid(child, 0)[1], most() - before)
"""
    done = python(lease, program)
    status, more_mib = map(int, done.stdout.split())
    assert status == 0, done.stderr
    assert more_mib < 100, "the copy has what of the lease is not used"


def test_a_fork_that_a_limit_of_the_process_forbids_says_so(lease: pathlib.Path) -> None:
    program = """
import os, resource
(line,) = [each for each in open("/proc/self/status") if each.startswith("VmSize")]
resource.setrlimit(resource.RLIMIT_AS, (int(line.split()[1]) + 2048 << 10,) * 2)
child = os.fork()
if not child:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), whole())
"""
    done = python(lease, program)
    assert done.stdout == "-6 True\n"
    assert "the limits of this process (ulimit -l, ulimit -v) leave no" in done.stderr


@pytest.mark.parametrize("handler", ["SIG_DFL", "faulthandler"])
def test_a_child_of_a_program_with_threads_and_open_streams_lives(
    lease: pathlib.Path, handler: str
) -> None:
    """glibc looks at all streams before the handlers of fork()."""
    program = f"""
import ctypes, faulthandler, os, signal, threading
if "{handler}" == "faulthandler":
    faulthandler.enable()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
streams = [libc.fopen(b"/dev/null", b"r") for _ in range(200)]
threading.Thread(target=threading.Event().wait, daemon=True).start()
def fork(then):
    child = os.fork()
    if not child:
        then()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(fork(lambda: os._exit(0 if whole() else 1)))
print(fork(lambda: os._exit(fork(lambda: os._exit(0 if whole() else 1)))))
print(fork(lambda: ctypes.string_at(0)) == -signal.SIGSEGV)
"""
    done = python(lease, program)
    assert done.stdout == "0\n0\nTrue\n", done.stderr
    assert ("Fatal Python error: Segmentation fault" in done.stderr) == (handler != "SIG_DFL")


def test_what_does_not_fit_is_ordinary_memory_and_counted(lease: pathlib.Path) -> None:
    done = python(
        lease, "more = [bytes(4096) for _ in range(30000)]; print(whole())", SOM_VERBOSE="1"
    )
    assert done.stdout == "True\n"
    full, report = done.stderr.splitlines()
    assert "the lease of 160 MiB is full; the rest of the heap is ordinary memory" in full
    match = re.search(r"(\d+) of 160 MiB of the lease in use, (\d+) MiB of the heap", report)
    assert match is not None


def test_a_small_program_leaves_the_lease_to_others(lease: pathlib.Path) -> None:
    program = f"{HEAP}{SMAPS}print(smaps()['som'] > 0)"
    script = f'echo $(ls /); x=$({sys.executable} -c "$1" 100); echo $x'
    done = run(lease, "sh", "-c", script, "sh", program)
    assert done.stdout.endswith("\nTrue\n"), done.stderr
    assert done.stderr == ""


def test_what_is_no_lease_ends_the_program(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "som"
    file.write_bytes(bytes(LEASE // 16))
    done = run(file, "true")
    assert done.returncode == -6
    assert f"{file} is no som memory" in done.stderr


def test_without_a_lease_a_program_says_so_and_runs(tmp_path: pathlib.Path) -> None:
    done = python(tmp_path / "none", "print(whole())")
    assert done.stdout == "True\n"
    assert done.stderr.count("there is no such file: does the container request som.io/2Mi") == 1


def test_a_program_of_musl_has_its_heap_there_too(
    lease: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if not shutil.which("musl-gcc"):
        subprocess.run([ROOT / "tests/install-packages", "musl-tools"], check=True)
    source = pathlib.Path(__file__).parent / "programs/heap.c"
    binary = tmp_path / "heap"
    subprocess.run(
        ["musl-gcc", "-O1", "-idirafter", "/usr/include", "-o", binary, source], check=True
    )
    done = run(lease, str(binary), "1", "2", "200", "64")
    assert re.fullmatch(r"same [1-9][0-9]*\n", done.stdout), done.stderr


def test_memory_by_name_comes_from_the_lease_alone(lease: pathlib.Path) -> None:
    program = f"""
import ctypes
som = ctypes.CDLL({str(LIBRARY)!r})
som.som_alloc.restype = ctypes.c_void_p
som.som_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
som.som_free.argtypes = [ctypes.c_void_p]
got = [som.som_alloc(4 << 20, 1 << 16) for _ in range(60)]
there = [each for each in got if each]
print(len(there) in range(28, 41), [each % (1 << 16) for each in there] == [0] * len(there))
for each in there:
    ctypes.memset(each, 1, 4 << 20)
    som.som_free(each)
inside = range(min(there), max(there))
print(som.som_alloc(100 << 20, 0) in inside, som.som_alloc(1, 1 << 21))
"""
    done = run(lease, sys.executable, "-c", program)
    assert done.stdout == "True True\nTrue None\n", done.stderr


def test_the_library_needs_no_newer_glibc_than_2_17_and_leaves_new_to_cpp() -> None:
    shown = subprocess.run(["objdump", "-T", LIBRARY], capture_output=True, text=True, check=True)
    found = re.findall(r"GLIBC_([0-9.]+)", shown.stdout)
    assert found and max(tuple(map(int, each.split("."))) for each in found) <= (2, 17)
    # Its own operator new would abort where C++ throws std::bad_alloc.
    assert " malloc\n" in shown.stdout and "_Zn" not in shown.stdout


def test_an_address_that_is_not_written_is_not_read(lease: pathlib.Path) -> None:
    """What an earlier process left in the lease never comes out of calloc()."""
    with lease.open("r+b") as file, mmap.mmap(file.fileno(), LEASE) as content:
        content[:] = b"\xa5" * LEASE
    program = """
import ctypes
libc = ctypes.CDLL(None)
libc.calloc.restype = ctypes.c_void_p
for size in (64, 5000, 1 << 20, 30 << 20):
    assert not any(ctypes.string_at(libc.calloc(1, size), size)), size
print("zero")
"""
    assert python(lease, program).stdout == "zero\n"


def test_to_mkstemp_the_lease_is_a_directory_with_one_file_that_keeps_its_size(
    lease: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with lease.open("r+b") as file, mmap.mmap(file.fileno(), LEASE) as content:
        content[:] = b"\xa5" * LEASE
    program = f"""
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
def make(folder):
    name = ctypes.create_string_buffer(os.fsencode(folder) + b"/heap.XXXXXX")
    return libc.mkstemp(name), libc.unlink(name)
fd, unlinked = make({str(lease)!r})
print(fd > 2, unlinked, [libc.ftruncate(fd, ctypes.c_long(n)) for n in ({PAGE}, {LEASE} + 1)])
os.posix_fallocate(fd, 0, {LEASE})
with mmap.mmap(fd, 0) as content:
    os.close(fd)
    print(content[:] == bytes({LEASE}), make({str(lease)!r})[0], ctypes.get_errno())
    kept = [bytes(4096) for _ in range(20000)]
elsewhere = {str(tmp_path / "elsewhere")!r}
os.mkdir(elsewhere)
fd, unlinked = make(elsewhere)
print(libc.ftruncate(fd, ctypes.c_long(10)), os.fstat(fd).st_size, unlinked, os.listdir(elsewhere))
"""
    done = run(lease, sys.executable, "-c", program)
    assert done.stdout == f"True 0 [0, -1]\nTrue -1 {errno.EBUSY}\n0 10 0 []\n", done.stderr
    assert "no file can be made there: another process" in done.stderr
    assert lease.stat().st_size == LEASE


def test_a_lease_that_the_heap_has_is_no_directory(lease: pathlib.Path) -> None:
    program = f"import ctypes; print(ctypes.CDLL(None).mkstemp(b'{lease}/heap.XXXXXX'), whole())"
    done = python(lease, program)
    assert done.stdout == "-1 True\n", done.stderr
    assert "no file can be made there: the heap of this process has it" in done.stderr


def test_a_jvm_has_its_heap_there(lease: pathlib.Path) -> None:
    if not shutil.which("java"):
        subprocess.run([ROOT / "tests/install-packages", "default-jdk-headless"], check=True)
    options = [f"-XX:AllocateHeapAt={lease}", "-Xms128m", "-Xmx128m"]
    done = run(lease, "java", *options, str(ROOT / "examples/Heap.java"))
    match = re.fullmatch(r"60 MiB kept, (\d+) MiB of the heap in som memory\n", done.stdout)
    assert match and 60 <= int(match.group(1)) <= 128, (done.stdout, done.stderr)
    assert done.stderr == ""
