"""`helm test`: an unprivileged pod maps all its memory, and finds it zeroed."""

from __future__ import annotations

from cluster.harness.cluster import Cluster
from cluster.scenes.release import NAMESPACE


def test_helm_test_passes_on_a_ready_pool(clean: Cluster) -> None:
    words = ["test", "som", f"--namespace={NAMESPACE}", "--timeout=120s"]
    assert "Phase:          Succeeded" in clean.helm(*words)
