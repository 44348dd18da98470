"""Who asks the fleet API, and what a dead leader changes: two replicas as helm installs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import pods
from cluster.scenes.release import NAMESPACE

TAKE_OVER_S = 40
"""A lease ends 12 s after its last change was seen; the rest is for a slow machine."""
NOWHERE = {
    "apiVersion": "som.io/v1alpha1",
    "kind": "SomPool",
    "metadata": {"name": "nowhere"},
    "spec": {
        "unit": "1Gi",
        "capacity": "1Gi",
        "source": {"hugeTLB": {"pageSize": "1Gi"}},
        "nodeSelector": {"matchLabels": {"no": "node"}},
    },
}


class Api:
    """Requests through a port-forward to the Service, as docs/how-to/fleet-api.md has it."""

    def __init__(self, cluster: Cluster, authority: Path, token: str) -> None:
        self._cluster = cluster
        self._authority = authority
        self._token = token

    def get(self, target: str) -> Any:
        """The JSON of the answer, whatever its status."""
        command = ["curl", "--silent", "--max-time", "20", "--cacert", str(self._authority)]
        command += ["--header", f"Authorization: Bearer {self._token}"]
        answer = self._cluster.on_node([*command, f"https://localhost:8443/api/v1/{target}"])
        return json.loads(answer)


@pytest.fixture(scope="module")
def api(clean: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """What a service account sees that may view namespace default, where one pod has memory."""
    clean.apply(pods.pod("owner", pods.container("size", "hold", units=8)))
    pods.wait_output(clean, "owner", "hold")
    clean.kubectl("create", "serviceaccount", "reporter")
    rights = ["--clusterrole=view", "--serviceaccount=default:reporter"]
    clean.kubectl("create", "rolebinding", "reporter", *rights)
    token = clean.kubectl("create", "token", "reporter").strip()
    authority = tmp_path_factory.mktemp("fleet-api") / "ca.crt"
    words = ["get", "configmap", "som-api-ca", f"--namespace={NAMESPACE}"]
    authority.write_text(
        clean.wait_for(
            "the authority of the fleet API",
            lambda: clean.kubectl(*words, "--output=jsonpath={.data.ca\\.crt}"),
        )
    )
    service = [f"--namespace={NAMESPACE}", "service/som-api", "8443:443"]
    clean.namespaces.start("port-forward", ["kubectl", "port-forward", *service])
    try:
        yield Api(clean, authority, token)
    finally:
        clean.namespaces.stop("port-forward")
        clean.kubectl("delete", "serviceaccount/reporter", "rolebinding/reporter")


def test_lease_of_a_pod_is_seen_by_who_may_list_its_namespace(api: Api, som: Cluster) -> None:
    # Kubelet brings the agent's certificate within a minute or two of the leader's election.
    answer = som.wait_for(
        "the agent to tell its leases",
        lambda: (found := api.get("leases?namespace=default")).get("incomplete") == [] and found,
        deadline_s=150,
    )
    (row,) = answer["items"]
    assert (row["node"], row["namespace"], row["pod"]) == ("node1", "default", "owner")
    assert (row["pool"], row["sizeBytes"]) == ("examples", 8 * pods.UNIT_BYTES)
    assert row["state"] == "Delivered"


def test_other_namespaces_are_not(api: Api) -> None:
    for target in ("leases", f"leases?namespace={NAMESPACE}", "pools"):
        refusal = api.get(target)
        assert refusal["code"] == 403
        assert "system:serviceaccount:default:reporter may not list" in refusal["message"]


def test_kubectl_som_sees_the_same(api: Api, som: Cluster) -> None:
    program = Path(sys.executable).parent / "kubectl-som"
    # What kubelet's books lack is amiss, and the exit status says so.
    status = som.namespaces.run([program, "status"], check=False).stdout
    assert "operator 2/2 ready, agents 1/1 ready" in status
    assert "1 pool on 1 node: 2Gi reserved" in status
    leases = som.namespaces.run([program, "leases", "--namespace=default"]).stdout
    assert leases.splitlines()[1].split()[:5] == ["default", "owner", "main", "16Mi", "examples"]


def test_a_pool_is_planned_soon_after_the_leader_was_killed(clean: Cluster) -> None:
    def leader() -> str:
        spec = clean.get("lease", "som-operator", namespace=NAMESPACE)["spec"]
        return str(spec.get("holderIdentity", "")).partition("_")[0]

    before = leader()
    words = ["--grace-period=0", "--force", f"--namespace={NAMESPACE}"]
    uid = clean.get("pod", before, namespace=NAMESPACE)["metadata"]["uid"]
    # Killed first: the program of a pod that is deleted by force plans for a moment yet.
    groups = "pgrep -f bin/som-operator | xargs -I{} grep -l $1 /proc/{}/cgroup"
    clean.on_node(["sh", "-c", f"kill -KILL $({groups} | cut -d/ -f3)", "kill", uid])
    clean.kubectl("delete", "pod", before, *words)
    clean.apply(NOWHERE)
    try:
        limit = f"--timeout={TAKE_OVER_S}s"
        condition = "--for=jsonpath={.status.conditions[?(@.type=='Ready')].status}=False"
        clean.kubectl("wait", condition, "sompool/nowhere", limit)
        assert leader() not in ("", before)
    finally:
        clean.kubectl("delete", "sompool/nowhere", "--timeout=60s")
        clean.kubectl("rollout", "status", "deployment/som-operator", *words[2:], "--timeout=90s")
