"""som as helm installs it on a virtual node; the tests share it in their order."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from cluster.harness import binaries
from cluster.scenes import agents, release
from cluster.scenes.conftest import pytest_runtest_makereport  # noqa: F401
from vm.node import state
from vm.node.machine import PREBUILT, VirtualCluster

POOL = """\
apiVersion: som.io/v1alpha1
kind: SomPool
metadata: {name: examples}
spec: {unit: 2Mi, capacity: 256Mi, source: {hugeTLB: {pageSize: 2Mi}}}
"""
PATIENCE = (
    "s/failureThreshold: .*/failureThreshold: 600/; s/periodSeconds: 2$/periodSeconds: 5/; "
    "s/terminationGracePeriodSeconds: 10$/terminationGracePeriodSeconds: 120/"
)
"""For sed, over what helm has rendered: a change afterwards would have each part start twice.

An agent that is killed at its end leaves its socket behind.
"""


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


@pytest.fixture(scope="session")
def som(cluster: VirtualCluster) -> VirtualCluster:
    """The cluster with som installed."""
    install(cluster, driver=PREBUILT)
    return cluster


@pytest.fixture(scope="session")
def before(som: VirtualCluster) -> state.Memory:
    """The node's memory when it had no pool yet."""
    return state.Memory.of(som)


@pytest.fixture(scope="session")
def hugetlbfs(som: VirtualCluster, before: state.Memory) -> VirtualCluster:
    """som with a Ready pool that needs no module."""
    som.apply(POOL)
    som.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=90s")
    agents.wait_units(som, 128)
    agents.wait_tickets(som)
    return som


def install(cluster: VirtualCluster, *, driver: str) -> None:
    """As helm does it, but with one operator and patient probes: the machine is emulated."""
    patient = ("--post-renderer=sed", f"--post-renderer-args={PATIENCE}")
    values = ("--set=operator.replicas=1", "--set=uninstall.timeoutSeconds=900")
    release.install(cluster, *values, *patient, driver=driver)
