"""The cluster of the session; its node is a virtual machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from cluster.harness import binaries
from vm.node.machine import VirtualCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[VirtualCluster]:
    """A cluster with a Ready node; everything is gone after the session, or an interrupt."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    binaries.install_packages()
    cluster = VirtualCluster()
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()
