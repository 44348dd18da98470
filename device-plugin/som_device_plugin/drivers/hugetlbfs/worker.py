"""The process that takes huge pages: what it maps is charged to the cgroup that it joins.

Spawned (see `command`) and never forked from the agent, which has gRPC threads. It extends a
hold, donates pages to som.ko (see `drivers.kernel.donated`) or builds a start. One that builds
may have been started ahead: it reads what to build from its stdin, a JSON list in a line, and says
on stdout `ready <bytes>` while it works. What went wrong is on stderr.
"""

import ctypes
import errno
import fcntl
import json
import os
import signal
import struct
import sys
import threading
import time

from som_device_plugin.linux import mounts

EXIT_NO_PAGES = 3
FILE_NAME = "som"

POOL_ADD = 0xDA02
"""SOM_CTL_POOL_ADD of driver/uapi/som.h; `abi` imports too much for a worker."""

_MOST_DONATED_BYTES = 2**30
_CHUNK_BYTES = 128 * 2**20
_MOST_THREADS = 4
_NICE = 5
_SPARE_NICE = 19
_LOCK_TIMEOUT_S = 20.0
_SWAP_TRIES = 50
_SWAP_PAUSE_S = 0.001
_PROT_READ_WRITE = 0x1 | 0x2
_MAP_SHARED = 0x1
_MAP_FAILED = ctypes.c_void_p(-1).value
_MADV_POPULATE_WRITE = 23
_MPOL_PREFERRED = 1
_PR_SET_PDEATHSIG = 1
_CLONE_INTO_CGROUP = 0x200000000
_CLONE3 = 435
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "riscv64": 237}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class NoPages(Exception):
    """The kernel has no such pages; the message says which and why."""


# As an imported module it comes from the bytecode cache; Python would compile a script each time.
# Taking the interpreter down in order costs 4 ms.
_RUN = (
    f"import os, sys; sys.path.insert(0, {__file__.rpartition('/som_device_plugin/')[0]!r});"
    f"from {__name__} import main; os._exit(main(sys.argv[1:]))"
)


def command(*arguments: str) -> list[str]:
    """The command line of a worker, for whoever spawns it."""
    return [sys.executable, "-I", "-S", "-c", _RUN, *arguments]


def main(arguments: list[str]) -> int:
    what, *given = arguments
    try:
        if what == "extend":
            hold, more, *groups = given
            _join(groups)
            if not _abandoned():
                _extend(hold, int(more))
        elif what == "donate":
            control, pool, size, page, node, *groups = given
            _join(groups)
            if not _abandoned():
                _donate(int(control), int(pool), int(size), int(page), int(node))
        else:
            _join(given)
            with open(0, closefd=False) as file:
                line = file.readline()
            if not line:
                # The agent has no use for this worker any more.
                return 0
            hold, size, page, directory, source, node, group, spare = json.loads(line)
            _enter(group)
            if not _abandoned():
                _build(hold, int(size), int(page), directory, source, int(node), bool(int(spare)))
    except NoPages as error:
        print(error, file=sys.stderr)
        return EXIT_NO_PAGES
    except OSError as error:
        print(error.strerror if error.filename is None else error, file=sys.stderr)
        return 1
    return 0


def _enter(group: str) -> None:
    """Go on in `group`. On v2 as a child that is born there: a process that moves waits for a grace
    period of RCU, longer than a small lease takes (clone(2), CLONE_INTO_CGROUP, Linux 5.7).
    """
    if not os.path.exists(f"{group}/cgroup.type"):  # noqa: PTH110
        _join([f"{group}/cgroup.procs"])
        return
    # struct clone_args of linux/sched.h: flags first, exit_signal fifth, cgroup last.
    arguments = (ctypes.c_uint64 * 11)()
    arguments[0] = _CLONE_INTO_CGROUP
    arguments[4] = signal.SIGCHLD
    arguments[10] = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    parent = os.getpid()
    child = _libc.syscall(_CLONE3, arguments, ctypes.sizeof(arguments))
    if child < 0:
        raise mounts.failure(f"starting a process in {group}")
    if child > 0:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            os.kill(parent, -status)
        os._exit(status)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _abandoned() -> bool:
    """Whether the agent is gone. Its successor ends all workers that are in som's cgroups, and so
    must not miss one that joins later.
    """
    os.set_blocking(0, False)
    try:
        return not os.read(0, 1)
    except BlockingIOError:
        return False


def _build(
    hold: str, size: int, page: int, directory: str, source: str, node: int, is_spare: bool
) -> None:
    mount = mounts.build_hugetlbfs(
        source,
        {"pagesize": str(page), "size": str(size), "nr_inodes": "2", "mode": "0700"},
    )
    file = os.open(FILE_NAME, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, dir_fd=mount)
    os.fchmod(file, 0o666)
    if node >= 0:
        _prefer(node)
    address = _swap(hold, file, size)
    _populate(address, size, page, source, is_spare=is_spare)
    mounts.attach(mount, directory)


def _populate(address: int, size: int, page: int, source: str, *, is_spare: bool) -> None:
    """Have the kernel zero all of it, by a thread per core: one alone does not use the memory's
    bandwidth. They yield to whoever else wants the cores.

    Of a spare, by one that rests as long as it works. The idle class would not do: the kernel
    clears a page under a lock that others may wait for (hugetlb_fault_mutex_table), and outside
    som's cgroup nobody heeds a priority within it.
    """
    cores = 1 if is_spare else len(os.sched_getaffinity(0))
    threads = min(_MOST_THREADS, cores, size // page)
    chunk = max(page, min(_CHUNK_BYTES, size // threads // page * page))
    offsets = iter(range(0, size, chunk))
    ready: list[int] = []
    failures: list[OSError] = []

    def work() -> None:
        try:
            for offset in offsets:
                length = min(chunk, size - offset)
                begun = time.monotonic()
                if _libc.madvise(address + offset, length, _MADV_POPULATE_WRITE):
                    raise mounts.failure(f"populating {length} bytes at {offset} of {source}")
                ready.append(length)
                # Fails when the agent is gone: then nothing may be attached.
                os.write(1, b"ready %d\n" % sum(ready))
                if is_spare:
                    time.sleep(time.monotonic() - begun)
        except OSError as error:
            failures.append(error)

    os.nice(_SPARE_NICE if is_spare else _NICE)
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _swap(hold: str, file: int, size: int) -> int:
    """Give `size` bytes of the hold back and reserve them at once for `file`; its mapping.

    Whoever else reserves huge pages on the machine can get in between: that is a lost swap.
    """
    hold_file = os.open(hold, os.O_RDWR)
    try:
        _lock(hold_file)
        held = os.fstat(hold_file).st_size
        if held < size:
            raise NoPages(f"the pool has {held >> 20}Mi free of {size >> 20}Mi")
        os.ftruncate(hold_file, held - size)
        for _ in range(_SWAP_TRIES):
            address = _map(file, size)
            if address is not None:
                return address
            time.sleep(_SWAP_PAUSE_S)
        raise NoPages(
            f"{size >> 20}Mi taken out of the hold were reserved by another process of the machine"
        )
    finally:
        os.close(hold_file)


def _lock(hold_file: int) -> None:
    """Lock the hold. It is blocking, so that who waits has his turn, and not for ever."""

    def give_up(*_: object) -> None:
        raise NoPages(f"the pool's hold was locked by another process for {_LOCK_TIMEOUT_S:.0f} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _LOCK_TIMEOUT_S)
    fcntl.flock(hold_file, fcntl.LOCK_EX)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _extend(hold: str, more: int) -> None:
    """Reserve `more` bytes in the hold, all of them or nothing."""
    file = os.open(hold, os.O_RDWR)
    _lock(file)
    if _map(file, os.fstat(file).st_size + more) is None:
        raise NoPages(f"{more >> 20}Mi were reserved by another process of the machine")


def _donate(control: int, pool: int, size: int, page: int, node: int) -> None:
    """Put `size` bytes of free huge pages into a pool of som.ko, 1 GiB at a time.

    som.ko takes them out of this process. Their file has no name: pages that it has not taken are
    free again when this process ends.
    """
    _prefer(node)
    while size > 0:
        part = min(size, max(_MOST_DONATED_BYTES, page))
        kind = os.MFD_HUGETLB | (page.bit_length() - 1) << os.MFD_HUGE_SHIFT
        file = os.memfd_create("som", os.MFD_CLOEXEC | kind)
        address = _map(file, part)
        if address is None:
            raise NoPages(f"{part >> 20}Mi were reserved by another process of the machine")
        # A fault while som.ko pins would pass over free pages in a Movable zone: these the kernel
        # moves out of there only once they are mapped (dequeue_hugetlb_folio_node_exact()).
        if _libc.madvise(address, part, _MADV_POPULATE_WRITE):
            raise mounts.failure(f"populating {part >> 20}Mi of huge pages")
        fcntl.ioctl(control, POOL_ADD, pool_add(pool, address, part))
        os.close(file)
        size -= part


def pool_add(pool: int, address: int, size: int) -> bytes:
    """`struct som_pool_add` of driver/uapi/som.h."""
    return struct.pack("=IIIIQQ", 32, 0, pool, 0, address, size)


def _map(file: int, size: int) -> int | None:
    """Map `size` bytes of `file` and so reserve them, its size grows too; None: no pages."""
    address: int | None = _libc.mmap(None, size, _PROT_READ_WRITE, _MAP_SHARED, file, 0)
    if address != _MAP_FAILED:
        return address
    if ctypes.get_errno() == errno.ENOMEM:
        return None
    raise mounts.failure(f"mmap of {size} bytes")


def _prefer(node: int) -> None:
    number = _SET_MEMPOLICY.get(os.uname().machine)
    if number is None:
        return
    mask = (ctypes.c_ulong * 16)()
    mask[node // 64] = 1 << node % 64
    if _libc.syscall(number, _MPOL_PREFERRED, mask, ctypes.c_ulong(1024)):
        raise mounts.failure(f"preferring NUMA node {node}")


def _join(groups: list[str]) -> None:
    for path in groups:
        with open(path, "w") as file:  # noqa: PTH123
            file.write("0")
