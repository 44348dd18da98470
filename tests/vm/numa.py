"""What the kernel and som say about the two NUMA nodes, in pages."""

import contextlib
import json
import mmap
from collections.abc import Callable, Iterator
from typing import Any

from node import local_node, machine
from som_device_plugin.linux import hugepages

PAGE = machine.PAGE
DEADLINE_S = 180.0
"""The emulated machine is slow, and on a loaded host very slow."""


def wait_until(
    condition: Callable[[], object], *, what: str, then: Callable[[], str] = str
) -> None:
    """See `machine.wait_until`. Leaves the processor to others."""
    machine.wait_until(condition, what=what, deadline_s=DEADLINE_S, every_s=0.2, then=then)


def persistent() -> dict[int, int]:
    """NUMA node -> persistent huge pages on it, whoever has them."""
    return {node: hugepages.node_counts(PAGE, node).persistent for node in hugepages.nodes()}


def said(node: local_node.LocalNode) -> list[dict[str, Any]]:
    """The pools of the agent's last report on the present order; [{}] before that."""
    with contextlib.suppress(FileNotFoundError):
        status = json.loads(node.state_dir.status.read_text())
        if status.get("observedGeneration") == node.generation:
            return list(status["pools"])
    return [{}]


def shares(node: local_node.LocalNode) -> dict[int, int]:
    """NUMA node -> pages of the pool, as the agent reports them."""
    numa = next(iter(said(node)), {}).get("numa", [])
    return {share["node"]: pages_of(share["capacity"]) for share in numa}


def pages_of(quantity: str) -> int:
    """`40Mi` in pages."""
    return int(quantity.removesuffix("Mi")) * 2**20 // PAGE


@contextlib.contextmanager
def used(pages: int) -> Iterator[mmap.mmap]:
    """A program of the machine uses `pages` huge pages."""
    with machine.huge_memory(pages) as memory:
        yield memory
