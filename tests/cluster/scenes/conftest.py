"""som as helm installs it, from images of this tree; the scenes share it in their order."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cluster.harness import images
from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods, release

POOL = images.PROJECT / "examples" / "sompool.yaml"


@pytest.fixture(scope="session")
def som(cluster: Cluster, product: list[Path]) -> Iterator[Cluster]:
    """The cluster with som installed, the pool of the examples Ready, and no pod of a test."""
    for archive in product:
        cluster.load(archive)
    release.install(cluster)
    cluster.apply(POOL.read_text())
    cluster.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=90s")
    agents.wait_units(cluster, 1024)
    agents.wait_tickets(cluster)
    yield cluster


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> list[Path]:
    """The archives of both images; built after `cluster` has waited for our turn at the machine."""
    return release.build()


@pytest.fixture(scope="module")
def clean(som: Cluster) -> Iterator[Cluster]:
    """som, with all pods of the scene deleted after it and their memory free again."""
    yield som
    som.kubectl("delete", "statefulset,pod", "--all", "--timeout=90s")
    pods.wait_allocated(som, "examples", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is shown with the pods' Events and the agents' logs."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("som")
    if report.failed and cluster is not None:
        for words in (
            ["get", "pods", "--all-namespaces"],
            ["describe", "pods"],
            ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
            ["logs", "daemonset/som-agent", "--namespace=som-system", "--tail=60"],
        ):
            title = f"kubectl {' '.join(words)}"
            report.sections.append((title, cluster.kubectl(*words, check=False)[-6000:]))
    return report
