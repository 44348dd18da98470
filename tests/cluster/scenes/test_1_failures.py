"""What `kubectl describe` says of pods that do not start: a golden file for each failure."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.harness.cluster import Cluster
from cluster.scenes import agents, pods, policies

ZEROED, ONES = "0", "0x1111111111111111"
TERABYTE = 512 * 1024
"""In units."""

STOP_WORKER = """
import glob, os, signal, time
end = time.monotonic() + 90
slots = "som/pool-*/[0-9]*/cgroup.procs"
while time.monotonic() < end:
    for group in glob.glob(f"/sys/fs/cgroup/{slots}") + glob.glob(f"/sys/fs/cgroup/*/{slots}"):
        for pid in open(group).read().split():
            os.kill(int(pid), signal.SIGSTOP)
            print(pid)
            raise SystemExit
    time.sleep(0.005)
"""


@contextlib.contextmanager
def next_worker_stopped(cluster: Cluster) -> Iterator[None]:
    """The next process that zeroes memory is stopped in the middle of it, and goes on after."""
    command = cluster.namespaces.enter([sys.executable, "-c", STOP_WORKER])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stopping:
        try:
            yield
        finally:
            pid, _ = stopping.communicate()
            cluster.namespaces.run(["kill", "-CONT", pid.strip()])


@pytest.fixture(scope="module")
def told(clean: Cluster) -> dict[str, str]:
    """Every failure once: the first warnings of each by the name of their golden file."""
    starts = ("check", ZEROED, "fill", ONES, "hold")
    # Nothing is zeroed ahead, so that the next worker is a pod's.
    clean.kubectl("patch", "sompool", "examples", "--type=merge", '--patch={"spec":{"warm":[]}}')
    unfit = pods.container("hold", units=1, name="prepare")
    told = {}
    clean.apply(
        pods.stateful_set("init", pods.container("hold"), initContainers=[unfit]),
        pods.pod("crashed", pods.container(*starts, units=8)),
    )
    told["units-in-plain-init-container"] = pods.wait_warned(clean, "init", kind="statefulset")
    clean.kubectl("delete", "statefulset", "init")
    with policies.away(clean, policies.TICKETS):
        clean.apply(pods.stateful_set("ticketless", pods.container("size", "hold", units=1)))
        told["units-without-ticket"] = pods.wait_warned(clean, "ticketless", kind="statefulset")
        with policies.away(clean, policies.REFUSALS):
            told["units-without-ticket-or-policies"] = pods.wait_warned(clean, "ticketless-0")
    with next_worker_stopped(clean):
        clean.apply(pods.pod("large", pods.container(*starts, units=512)))
        told["warming"] = pods.wait_warned(clean, "large")
    clean.apply(pods.pod("ending", pods.container("endure", units=1), grace_s=10))
    pods.wait_output(clean, "ending", "endure")
    # kubelet forgets the ticket right after it was given, and then gives it again.
    with agents.replaced_by(clean, "forgetful", "n0-200", "default/ending"):
        pods.delete(clean, "ending", wait=False)
        clean.wait_for(
            "kubelet to end it", lambda: "Killing" in clean.kubectl("describe", "pod", "ending")
        )
        clean.apply(pods.pod("first", pods.container(*starts, units=8), nodeName="node1"))
        pods.wait_output(clean, "first", "hold")
        clean.apply(pods.pod("second", pods.container(*starts, units=8), nodeName="node1"))
        told["same-ticket-twice"] = pods.wait_warned(clean, "second")
    pods.wait_output(clean, "crashed", "hold")
    with agents.away(clean):
        clean.apply(pods.pod("late", pods.container(*starts, units=8)))
        pods.kill(clean, "crashed")
        told["agent-down"] = pods.wait_warned(clean, "late")
        told["agent-down-container-ended"] = pods.wait_warned(clean, "crashed")
    clean.kubectl("patch", "sompool", "examples", "--type=merge", '--patch={"spec":{"warm":null}}')
    return told


@pytest.mark.parametrize(
    "failure",
    [
        "warming",
        "agent-down",
        "agent-down-container-ended",
        "units-without-ticket",
        "units-without-ticket-or-policies",
        "units-in-plain-init-container",
        "same-ticket-twice",
    ],
)
def test_describe_tells_the_failure(told: dict[str, str], failure: str) -> None:
    assert told[failure] == pods.golden(failure)


@pytest.mark.usefixtures("told")
def test_first_pod_of_a_ticket_is_left_alone(som: Cluster) -> None:
    assert pods.ask(som, "first", "check", ONES) == ["check: same"]
    assert pods.restarts(som, "first") == 0


@pytest.mark.usefixtures("told")
def test_all_others_start_in_the_end(som: Cluster) -> None:
    for name in ("large", "late", "crashed"):
        assert pods.wait_output(som, name, "hold")[0] == "check: same"


def test_terabyte_in_the_books_is_one_entry_in_the_pods_status(clean: Cluster) -> None:
    """The node promises what the pool has not, so that kubelet and agent see such a pod."""
    som = clean
    som.kubectl("delete", "statefulset,pod", "--all", "--timeout=90s")
    namespace = f"--namespace={agents.NAMESPACE}"
    operator = "--selector=app.kubernetes.io/component=operator"
    som.kubectl("scale", "deployment/som-operator", namespace, "--replicas=0")
    try:
        som.kubectl("wait", "pod", operator, namespace, "--for=delete", "--timeout=60s")
        capacity = json.dumps({"status": {"capacity": {"som.io/2Mi": str(TERABYTE)}}})
        som.kubectl("patch", "node", "node1", "--subresource=status", f"--patch={capacity}")
        agents.wait_units(som, TERABYTE)
        som.apply(pods.pod("tera", pods.container("hold", units=TERABYTE)))
        refused = "som: needs 1Ti, but pool examples has"
        som.wait_for("the agent's refusal", lambda: refused in pods.warnings(som, "tera"))

        def told() -> list[Any]:
            """What the pod's status says of its devices: kubelet writes it after the Event."""
            (container,) = som.get("pod", "tera")["status"].get("containerStatuses", [{}])
            return list(container.get("allocatedResourcesStatus", []))

        (resource,) = som.wait_for("the status of the pod's devices", told)
        assert resource["name"] == "som.io/ticket"
        assert [each["health"] for each in resource["resources"]] == ["Healthy"]
        pods.delete(som, "tera")
    finally:
        som.kubectl("scale", "deployment/som-operator", namespace, "--replicas=2")
        som.kubectl("rollout", "status", "deployment/som-operator", namespace, "--timeout=90s")
    agents.wait_units(som, 1024)
