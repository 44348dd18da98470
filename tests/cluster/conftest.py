"""The cluster of the session, started by the first test that asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from cluster.harness import binaries
from cluster.harness.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with a Ready node; everything is gone after the session, or an interrupt.

    One that `make cluster-up` has started is used, and left up.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    binaries.install_packages()
    cluster = Cluster()
    if cluster.shared():
        yield cluster
        return
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()
