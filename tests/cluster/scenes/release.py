"""som as its users get it: two images and a helm release."""

from __future__ import annotations

from pathlib import Path

from cluster.harness import images
from cluster.harness.cluster import Cluster

CHART = images.PROJECT / "charts" / "som"
NAMESPACE = "som-system"
TARGETS = ("agent", "operator")


def build() -> list[Path]:
    """Build both images of this tree; return their archives."""
    return [images.build_product(target, tag=f"localhost/som-{target}:test") for target in TARGETS]


def install(cluster: Cluster, *, tag: str = "test", wait: bool = True) -> None:
    """Install or upgrade, and `wait` for the pods; the node must have the images."""
    words = ["upgrade", "--install", "som", str(CHART), "--create-namespace"]
    words += [f"--set=images.{target}.tag={tag}" for target in TARGETS]
    words += ["--wait", "--timeout=120s"] if wait else []
    cluster.helm(*words, f"--namespace={NAMESPACE}")
