"""`helm uninstall` on a node with a pool in som.ko: the node is as it was, but for a database."""

from __future__ import annotations

import pytest

from cluster.scenes import release
from guests import guest
from vm.node import driver, pools, state
from vm.node.machine import VirtualCluster

DATABASE = {f"/var/lib/som/{name}" for name in ("som.db", "agent.lock", "libsom/libsom.so")}
"""What docs/how-to/uninstall.md says stays."""


@pytest.fixture(scope="module")
def bare(som: VirtualCluster, before: state.Memory) -> VirtualCluster:
    """A pool is Ready, and nobody uses it."""
    som.apply(pools.DEVDAX)
    pools.wait_ready(som, "devdax")
    return som


def test_uninstall_leaves_no_module_no_reservation_and_no_file(
    bare: VirtualCluster, before: state.Memory
) -> None:
    bare.helm("uninstall", "som", f"--namespace={release.NAMESPACE}", "--wait", "--timeout=120s")
    gone = ("--for=delete", "--all", f"--namespace={release.NAMESPACE}", "--timeout=60s")
    bare.kubectl("wait", "pod", *gone)
    assert driver.loaded(bare) == ""
    state.assert_as_before(bare, before)
    places = ("/dev", "/var/run/cdi", "/var/lib/kubelet/device-plugins", "/var/lib/som")
    files = bare.on_node(["find", *places, "!", "-type", "d", "-path", "*som*"]).split()
    assert set(files) <= DATABASE


def test_the_kernel_has_had_no_complaint(bare: VirtualCluster) -> None:
    assert not guest.alarms(bare.said()), bare.said()[-6000:]
