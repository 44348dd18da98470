"""`explain`: each failure of docs/how-to/troubleshoot.md has its sentence and its cure."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from som_kubectl import causes, troubles
from unit.kubectl.conftest import Run
from unit.kubectl.fleets import Fleet, Json, condition, pool

PAGE = (pathlib.Path(__file__).parents[3] / "docs/how-to/troubleshoot.md").read_text()
READY = condition("Ready", "True", "Reserved")
UNKNOWN = "does not know what that means"


def rows(title: str) -> list[str]:
    """The first cells of a section's table."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [
        cell
        for cell in re.findall(r"^\| (.*?) \|", section, re.M)
        if cell[:1] == "`" and "kubectl describe" not in cell
    ]


def messages(title: str) -> list[str]:
    return [message for cell in rows(title) for message in re.findall(r"`([^`]+)`", cell)]


def findings(som: Run, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(som("explain", *words, "-o", "json")[1])["findings"]
    return found


def event(name: str, message: str, *, reason: str = "Failed", kind: str = "Pod") -> Json:
    metadata = {"name": f"{name}.1", "namespace": "default"}
    involved = {"kind": kind, "name": name}
    return {"metadata": metadata, "involvedObject": involved, "reason": reason, "message": message}


@pytest.mark.parametrize("message", messages("The pod cannot be created"))
def test_a_pod_that_cannot_be_created(fleet: Fleet, som: Run, message: str) -> None:
    text = f'create Pod db-0 in StatefulSet db failed error: pods "db-0" is forbidden: {message}'
    failed = event("db", text, reason="FailedCreate", kind="StatefulSet")
    fleet.kubectl.put("api/v1", "events", failed)
    (found,) = findings(som, "pod/db-0")
    assert found["what"] == "cannot be created"
    assert found["cure"]


@pytest.mark.parametrize("message", messages("The pod stays Pending"))
def test_a_pod_that_stays_pending(fleet: Fleet, som: Run, message: str) -> None:
    fleet.node("n1", fleet.pool(pool("a", "2Gi"), READY))
    unscheduled = {"type": "PodScheduled", "status": "False", "message": message}
    fleet.pod("web", conditions=[unscheduled], units=4096)
    first, second = findings(som, "pod/web")
    assert first["what"] == "waits for a node"
    assert first["cure"]
    assert second["meaning"] == "The most that one node has free is 2Gi, on n1"
    assert second["said"] == "it needs 8Gi of som.io/2Mi on one node"


@pytest.mark.parametrize(
    "message",
    [
        m
        for m in messages("The container is created, but does not start")
        if m not in ("<endpoint>", "/var/run/cdi")
    ],
)
@pytest.mark.parametrize("told_by", ["status", "event"])
def test_a_container_that_does_not_start(
    fleet: Fleet, som: Run, message: str, told_by: str
) -> None:
    waiting = {"reason": "CreateContainerConfigError"}
    if told_by == "status":
        waiting["message"] = message
    else:
        fleet.kubectl.put("api/v1", "events", event("web", message))
    fleet.pod("web", node="n1", containerStatuses=[{"name": "main", "state": {"waiting": waiting}}])
    (found,) = findings(som, "web")
    assert found["said"] == message
    assert found["cure"]


@pytest.mark.parametrize("message", messages("The pod has failed before its start"))
def test_a_pod_that_failed_before_its_start(fleet: Fleet, som: Run, message: str) -> None:
    fleet.pod("web", node="n1", phase="Failed", reason="UnexpectedAdmissionError", message=message)
    (found,) = findings(som, "pod/web")
    assert found["what"] == "has failed: UnexpectedAdmissionError"
    assert "create them again" in found["cure"]


def ended(code: int) -> list[Json]:
    return [{"name": "main", "state": {"terminated": {"exitCode": code}}}]


def test_a_program_that_fails(fleet: Fleet, som: Run) -> None:
    fleet.pod("web", node="n1", containerStatuses=ended(1))
    fleet.pod("bus", node="n1", containerStatuses=ended(135))
    fleet.pod("ticketless", node="n1", ticket=False, containerStatuses=ended(1))
    assert "ENOMEM" in findings(som, "pod/web")[0]["meaning"]
    assert "SIGBUS" in findings(som, "pod/bus")[0]["meaning"]
    assert "no som.io/ticket" in findings(som, "pod/ticketless")[0]["meaning"]
    said = " ".join(
        cause.meaning + cause.cure
        for cause in (causes.FAILED_PROGRAM, causes.BUS_ERROR, causes.NO_TICKET)
    )
    for cell in rows("The program fails"):
        # What DPDK and SPDK print about other directories is theirs.
        word = re.findall(r"ENOENT|ENOMEM|EINVAL|0 bytes|SIGBUS", cell.replace("ENOENT", ""))
        assert all(each in said for each in word), cell


@pytest.mark.parametrize("reason", messages("A pool is not Ready"))
def test_a_pool_that_is_not_ready(fleet: Fleet, som: Run, reason: str) -> None:
    fleet.pool(pool("databases"), condition("Ready", "False", reason, "some message"))
    (found,) = findings(som, "databases")
    assert found["what"] == f"is not Ready: {reason}"
    assert (found["said"], found["meaning"] != "") == ("some message", True)
    assert UNKNOWN not in found["meaning"]


@pytest.mark.parametrize("kind", [m for m in messages("A node is not Ready") if m.isalpha()])
def test_a_node_that_is_not_ready(fleet: Fleet, som: Run, kind: str) -> None:
    bad = "False" if troubles.GOOD[kind] == "True" else "True"
    item = fleet.pool(pool("a"), READY)
    fleet.node("n1", item, conditions=(condition(kind, bad, "SomeReason", "some message"),))
    (found,) = findings(som, "node/n1")
    assert found["said"] == "some message"
    assert found["cure"]
    assert UNKNOWN not in found["meaning"]


@pytest.mark.parametrize("reason", messages("A pool of one node is not Ready"))
def test_a_pool_of_one_node_that_is_not_ready(fleet: Fleet, som: Run, reason: str) -> None:
    fleet.node("n1", fleet.pool(pool("a"), READY))
    somnode = fleet.kubectl.objects["/apis/som.io/v1alpha1/somnodes/n1"]
    told = condition("Ready", "False", reason, "some message")
    somnode["status"]["pools"][0]["conditions"] = [told]
    (found,) = findings(som, "node/n1")
    assert found["subject"] == "pool a on node n1"
    assert UNKNOWN not in found["meaning"]


@pytest.mark.parametrize(
    "reason", [m for m in messages("Events on Nodes") if re.fullmatch("[A-Z]\\w+", m)]
)
def test_an_event_on_a_node(fleet: Fleet, som: Run, reason: str) -> None:
    fleet.node("n1", fleet.pool(pool("a"), READY))
    told = event("n1", "some message", reason=reason, kind="Node")
    fleet.kubectl.put("api/v1", "events", told)
    (found,) = findings(som, "node/n1")
    assert found["what"] == f"Event {reason}"
    assert found["said"] == "some message"


@pytest.mark.parametrize(
    ("break_it", "meaning"),
    [
        (lambda fleet: fleet.node("n1"), "No pool is ordered there"),
        (
            lambda fleet: fleet.node("n1", pool("a"), conditions=()),
            "No agent has reported about this SomNode",
        ),
        (
            lambda fleet: fleet.node("n1", pool("a"), ready=False),
            "The node does not report, so nothing is known about it",
        ),
    ],
)
def test_a_node_of_which_nothing_is_known(
    fleet: Fleet, som: Run, break_it: Callable[[Fleet], None], meaning: str
) -> None:
    break_it(fleet)
    assert findings(som, "n1")[0]["meaning"] == meaning


def test_what_is_well_has_no_finding(fleet: Fleet, som: Run) -> None:
    fleet.node("n1", fleet.pool(pool("a"), READY))
    fleet.pod("web", node="n1")
    for name in ("pool/a", "node/n1", "pod/web"):
        status, printed, _ = som("explain", name)
        assert (status, printed.partition(": ")[2]) == (
            0,
            "nothing is wrong with it that som knows of\n",
        )


def test_people_get_sentences(fleet: Fleet, som: Run) -> None:
    fleet.pool(pool("a"), condition("Ready", "False", "Paused", "set paused: false to begin"))
    assert som("explain", "sompool/a")[:2] == (
        1,
        "pool a: is not Ready: Paused\n"
        "  it says:  set paused: false to begin\n"
        "  meaning:  spec.paused is true: nothing of it is changed.\n"
        "  cure:     set paused: false.\n",
    )


def test_a_pods_node_is_looked_at_too(fleet: Fleet, som: Run) -> None:
    lost = condition("AgentReady", "False", "AgentNotReady", "the agent's pod is not ready")
    fleet.node("n1", fleet.pool(pool("a"), READY), conditions=(lost,))
    fleet.pod("web", node="n1")
    assert [found["subject"] for found in findings(som, "pod/web")] == ["its node n1"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pool/b", "explain pool/b: there is no pool of this name"),
        ("pod/b", "explain pod/b: there is no pod of this name in namespace default"),
        ("job/b", "job/b: 'job' is no kind that can be explained; use pool, node or pod"),
    ],
)
def test_what_is_not_there_is_an_error(fleet: Fleet, som: Run, name: str, says: str) -> None:
    assert som("explain", name) == (2, "", f"error: {says}\n")


@pytest.mark.parametrize("name", ["pool/a", "node/n1", "pod/web", "a"])
def test_in_a_cluster_without_som_nothing_else_is_to_be_explained(
    fleet: Fleet, som: Run, name: str
) -> None:
    fleet.node("n1")
    fleet.pod("web", node="n1")
    fleet.kubectl.absent |= {"sompools", "somnodes"}
    status, _, beside = som("explain", name)
    assert status == 2
    assert "the cluster does not know som: install the chart" in beside
