"""som.ko is built on the node, against its headers. `make test-full`: emulated it takes minutes."""

from __future__ import annotations

import pytest

from som_api import VERSION
from vm.node import driver, pools
from vm.node.conftest import install
from vm.node.machine import VirtualCluster

pytestmark = pytest.mark.full
HEADERS, AWAY = "/usr/src", "/usr/src.away"


@pytest.fixture(scope="module")
def bare(cluster: VirtualCluster) -> VirtualCluster:
    """A pool of reserved memory is ordered on a node that has no headers."""
    cluster.on_node(["mv", HEADERS, AWAY])
    # `helm uninstall` leaves them, and a module would be built for them at once.
    cluster.kubectl("delete", "sompool", "--all", "--timeout=90s", check=False)
    install(cluster, driver="test")
    cluster.apply(pools.EXTERNAL)
    return cluster


def test_missing_headers_are_told_with_the_cure(bare: VirtualCluster) -> None:
    driver.wait_told(bare, "False", "NoHeaders")
    kernel = bare.get("node", "node1")["status"]["nodeInfo"]["kernelVersion"]
    described = bare.kubectl("describe", "somnode", "node1")
    assert f"install linux-headers-{kernel} (Debian, Ubuntu)" in described
    assert driver.loaded(bare) == ""


def test_module_is_built_on_the_node_and_loaded(bare: VirtualCluster) -> None:
    bare.on_node(["mv", AWAY, HEADERS])
    driver.wait_told(bare, "True", "Loaded", deadline_s=180)
    assert driver.loaded(bare) == VERSION
    pools.wait_ready(bare, "external")
