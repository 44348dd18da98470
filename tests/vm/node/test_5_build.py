"""som.ko is built on the node, against its headers. `make test-full`: emulated it takes minutes."""

from __future__ import annotations

import pytest

from som_api import VERSION
from vm.node.conftest import install
from vm.node.machine import VirtualCluster
from vm.node.test_3_driver import POOL, loaded, wait_told

pytestmark = pytest.mark.full
HEADERS, AWAY = "/usr/src", "/usr/src.away"


@pytest.fixture(scope="module")
def bare(cluster: VirtualCluster) -> VirtualCluster:
    """A pool of reserved memory is ordered on a node that has no headers."""
    install(cluster, driver="test")
    cluster.on_node(["mv", HEADERS, AWAY])
    cluster.apply(POOL)
    return cluster


def test_missing_headers_are_told_with_the_cure(bare: VirtualCluster) -> None:
    wait_told(bare, "False", "NoHeaders")
    kernel = bare.get("node", "node1")["status"]["nodeInfo"]["kernelVersion"]
    described = bare.kubectl("describe", "somnode", "node1")
    assert f"install linux-headers-{kernel} (Debian, Ubuntu)" in described
    assert loaded(bare) == ""


def test_module_is_built_on_the_node_and_loaded(bare: VirtualCluster) -> None:
    bare.on_node(["mv", AWAY, HEADERS])
    wait_told(bare, "True", "Loaded", deadline_s=180)
    assert loaded(bare) == VERSION
    bare.kubectl("wait", "--for=condition=Ready", "sompool/bare", "--timeout=90s")
