"""som as its users get it: images and a helm release."""

from __future__ import annotations

from pathlib import Path

from cluster.harness import images
from cluster.harness.cluster import Cluster

CHART = images.PROJECT / "charts" / "som"
NAMESPACE = "som-system"
TARGETS = ("agent", "operator")
DRIVER = "driver"


def build(*more: str) -> list[Path]:
    """Build the images of this tree that every node needs, and `more`; return their archives."""
    return [
        images.build_product(target, tag=f"localhost/som-{target}:test")
        for target in (*TARGETS, *more)
    ]


def install(
    cluster: Cluster, *options: str, tag: str = "test", driver: str = "test", wait: bool = True
) -> None:
    """Install or upgrade with helm's `options`, and `wait` for the pods.

    The node must have the images.
    """
    words = ["upgrade", "--install", "som", str(CHART), "--create-namespace"]
    words += [f"--set=images.{target}.tag={tag}" for target in TARGETS]
    words += [f"--set=images.{DRIVER}.tag={driver}"]
    words += ["--wait", "--timeout=120s"] if wait else []
    cluster.helm(*words, *options, f"--namespace={NAMESPACE}")
