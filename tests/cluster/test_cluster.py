"""The cluster itself: what every other scene relies on."""

from __future__ import annotations

from cluster.harness import images
from cluster.harness.cluster import Cluster

POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: plain}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    seccompProfile: {{type: RuntimeDefault}}
  containers:
  - name: main
    image: {images.WORKLOAD}
    args: [id, hold]
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {{drop: [ALL]}}
"""


def test_node_is_ready_and_a_pod_runs(cluster: Cluster) -> None:
    cluster.apply(POD)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/plain", "--timeout=60s")
    cluster.wait_for("the pod's output", lambda: "hold" in cluster.logs("plain"))
    assert cluster.logs("plain") == "id: uid 10001 gid 0 capabilities 0000000000000000\nhold\n"
    cluster.kubectl("delete", "pod/plain")
