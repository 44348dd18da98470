"""What pools change of a node, as the node itself says it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator

from vm.node.machine import VirtualCluster

_RAM = re.compile(r"([0-9a-f]+)-([0-9a-f]+) : System RAM")
_SCRIPT = """
cat /proc/iomem
cd /sys/bus/dax/devices && for each in *; do echo $each $(basename $(readlink $each/driver)); done
cd /sys/devices/system/memory && grep -H . memory*/state memory*/valid_zones auto_online_blocks
grep . /sys/devices/system/node/node*/hugepages/hugepages-*/nr_hugepages
"""


@dataclasses.dataclass(frozen=True)
class Memory:
    """`taken`: the map of memory, devices and their drivers, blocks, huge pages."""

    taken: tuple[str, ...]
    total_kib: int

    @classmethod
    def of(cls, cluster: VirtualCluster) -> Memory:
        total = cluster.on_node(["awk", "/MemTotal/ {print $2}", "/proc/meminfo"])
        return cls(taken(cluster), int(total))


def taken(cluster: VirtualCluster) -> tuple[str, ...]:
    """See `Memory`; RAM that was added again stands beside that of the boot: shown as one."""
    lines: list[str] = []
    for line in cluster.on_node(["sh", "-c", _SCRIPT]).splitlines():
        last, this = (_RAM.fullmatch(each) for each in (lines[-1] if lines else "", line))
        if last and this and int(last[2], 16) + 1 == int(this[1], 16):
            lines[-1] = f"{last[1]}-{this[2]} : System RAM"
        else:
            lines.append(line)
    return tuple(lines)


def assert_as_before(cluster: VirtualCluster, before: Memory) -> None:
    after = Memory.of(cluster)
    assert after.taken == before.taken
    # Of metadata that was the kernel's own since the boot, pages are counted once it is made again.
    assert 0 <= after.total_kib - before.total_kib <= 16 * 1024


@contextlib.contextmanager
def holder(cluster: VirtualCluster, path: str) -> Iterator[str]:
    """A process of the node has `path` open: its pid."""
    pid = cluster.on_node(["sh", "-c", f"sleep 86400 <>{path} >/dev/null 2>&1 & echo $!"]).strip()
    try:
        yield pid
    finally:
        cluster.on_node(["kill", pid])
