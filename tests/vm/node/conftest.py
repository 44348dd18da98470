"""som as helm installs it on a virtual node; the tests share it in their order."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from cluster.harness import binaries
from cluster.scenes import agents, release
from cluster.scenes.conftest import pytest_runtest_makereport  # noqa: F401
from vm.node.machine import PREBUILT, VirtualCluster

POOL = """\
apiVersion: som.io/v1alpha1
kind: SomPool
metadata: {name: examples}
spec: {unit: 2Mi, capacity: 256Mi, source: {hugeTLB: {pageSize: 2Mi}}}
"""
WORKLOADS = ("daemonset/som-agent", "deployment/som-operator")
LIVENESS = "/spec/template/spec/containers/0/livenessProbe/failureThreshold"


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
def installed(cluster: VirtualCluster) -> VirtualCluster:
    """The cluster with som installed."""
    install(cluster, driver=PREBUILT)
    return cluster


@pytest.fixture(scope="session")
def som(installed: VirtualCluster) -> VirtualCluster:
    """The cluster with som installed and its pool Ready."""
    cluster = installed
    cluster.apply(POOL)
    cluster.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=90s")
    agents.wait_units(cluster, 128)
    agents.wait_tickets(cluster)
    return cluster


def install(cluster: VirtualCluster, *, driver: str) -> None:
    """As helm does it, but for the patience of the liveness probes: the machine is emulated."""
    release.install(cluster, driver=driver, wait=False)
    where = f"--namespace={release.NAMESPACE}"
    patience = json.dumps([{"op": "add", "path": LIVENESS, "value": 60}])
    for workload in WORKLOADS:
        cluster.kubectl("patch", workload, where, "--type=json", f"--patch={patience}")
    for workload in WORKLOADS:
        cluster.kubectl("rollout", "status", workload, where, "--timeout=120s")
