"""What a node is due: som.ko loaded, unloaded, or left alone."""

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from som_api import VERSION, v1alpha1
from som_operator.loading import decide, pods, results
from unit.operator.world import BOOT, node

NOW = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.UTC)
IMAGE = "driver:1"
OURS = v1alpha1.Module(version=VERSION, src_version="NEW")
OLDER = v1alpha1.Module(version="0.0.9", src_version="OLD")
TEMPLATE: Mapping[str, Any] = {
    "metadata": {"namespace": "som-system", "labels": dict(pods.LABELS)},
    "spec": {"containers": [{"name": "driver", "image": IMAGE}]},
}
Told = tuple[Literal["True", "False", "Unknown"], str]


def entry(driver: v1alpha1.DriverType = "Kernel") -> v1alpha1.NodePool:
    source = v1alpha1.Source(huge_tlb=v1alpha1.HugeTLB(page_size="2Mi"))
    return v1alpha1.NodePool(
        name="a", generation=1, unit="2Mi", capacity=2**30, source=source, driver=driver
    )


def pool(*, held_bytes: int = 0) -> v1alpha1.PoolStatus:
    """What the node still has of a pool."""
    return v1alpha1.PoolStatus(
        name="a",
        generation=1,
        unit="2Mi",
        driver="Kernel",
        capacity=2**30,
        allocated=held_bytes,
        free=2**30 - held_bytes,
    )


def somnode(
    *things: v1alpha1.NodePool | v1alpha1.PoolStatus,
    module: v1alpha1.Module | None = None,
    told: Told | None = None,
    boot_id: str = BOOT,
) -> v1alpha1.SomNode:
    conditions: tuple[v1alpha1.Condition, ...] = ()
    if told:
        conditions = (v1alpha1.Condition(type="DriverLoaded", status=told[0], reason=told[1]),)
    return v1alpha1.SomNode(
        metadata=v1alpha1.ObjectMeta(name="n", uid="u"),
        spec=v1alpha1.SomNodeSpec(
            pools=tuple(thing for thing in things if isinstance(thing, v1alpha1.NodePool))
        ),
        status=v1alpha1.SomNodeStatus(
            boot_id=boot_id,
            module=module,
            pools=tuple(thing for thing in things if isinstance(thing, v1alpha1.PoolStatus)),
            conditions=conditions,
        ),
    )


def pod(
    task: pods.Task = "load", answer: str = "", *, ended_s_ago: float | None = 0, **fields: Any
) -> pods.Pod:
    """A pod that has ended with `answer`; with `ended_s_ago=None` it works."""
    good = answer in (results.LOADED, results.LOADED_BY_OTHERS, results.UNLOADED)
    facts: dict[str, Any] = {"uid": "p", "node": "n", "task": task, "image": IMAGE}
    facts |= {"boot_id": BOOT, "attempt": 1, "succeeded": good}
    if ended_s_ago is not None:
        facts |= {"ended": NOW - datetime.timedelta(seconds=ended_s_ago)}
        if answer:
            version = VERSION if good else ""
            facts |= {"result": results.Result(answer, "why", version, "NEW")}
    return pods.Pod(**(facts | fields))


def due(of: v1alpha1.SomNode, there: pods.Pod | None = None) -> decide.Decision:
    return decide.decide(node(), of, there, image=IMAGE, now=NOW)


def said(decision: decide.Decision) -> tuple[str, str] | None:
    condition = decision.condition
    return (condition.status, condition.reason) if condition else None


def acts(decision: decide.Decision) -> tuple[bool, pods.Task | None]:
    return decision.delete, decision.create


LOADED: Told = ("True", "Loaded")
FOUND: Told = ("True", "LoadedByOthers")
LOADING: Told = ("Unknown", "Loading")
NOTHING = (False, None)


def test_every_state_has_a_goal() -> None:
    assert set(decide.GOALS) == {
        (need, kernel) for need in (True, False) for kernel in decide.Kernel
    }


@pytest.mark.parametrize("pools", [(), (entry("HugeTLBFS"),)], ids=["no pool", "no Kernel pool"])
def test_a_node_without_a_kernel_pool_is_left_alone(pools: tuple[v1alpha1.NodePool, ...]) -> None:
    assert due(somnode(*pools)) == decide.Decision(None)


def test_a_node_with_one_gets_a_pod_and_the_condition_says_so() -> None:
    first = due(somnode(entry()))
    assert (acts(first), said(first)) == ((False, "load"), LOADING)
    working = due(somnode(entry()), pod(ended_s_ago=None, trouble="ImagePullBackOff: no such tag"))
    assert (acts(working), said(working)) == (NOTHING, LOADING)
    assert working.condition
    assert "ImagePullBackOff: no such tag" in working.condition.message


def test_the_pods_end_is_the_truth_until_the_agent_reports_the_same() -> None:
    before = due(somnode(entry(), told=LOADING), pod(answer="Loaded", ended_s_ago=20))
    assert (acts(before), said(before), before.after_s) == (NOTHING, LOADED, 40)
    after = due(somnode(entry(), module=OURS, told=LOADED), pod(answer="Loaded"))
    assert (acts(after), said(after)) == ((True, None), LOADED)
    later = due(somnode(entry(), module=OURS, told=LOADED))
    assert (acts(later), said(later)) == (NOTHING, LOADED)


def test_what_the_agent_does_not_confirm_is_done_again() -> None:
    late = due(somnode(entry(), told=LOADED), pod(answer="Loaded", ended_s_ago=61))
    assert (acts(late), said(late)) == ((True, None), LOADING)


def test_what_others_have_loaded_is_told_and_never_unloaded() -> None:
    found = due(somnode(entry(), module=OURS))
    assert (acts(found), said(found)) == (NOTHING, FOUND)
    assert due(somnode(module=OURS, told=FOUND)) == decide.Decision(None)
    raced = due(somnode(entry(), module=OURS), pod(answer="LoadedByOthers"))
    assert said(raced) == FOUND


def test_who_loaded_it_stays_who_loaded_it() -> None:
    again = due(somnode(entry(), module=OURS, told=LOADED), pod(answer="LoadedByOthers"))
    assert said(again) == LOADED


def test_without_a_pool_that_needs_it_what_som_loaded_is_unloaded() -> None:
    idle = somnode(module=OURS, told=LOADED)
    assert (acts(due(idle)), said(due(idle))) == ((False, "unload"), LOADED)
    assert said(due(idle, pod("unload", ended_s_ago=None))) == LOADED
    unloaded = due(idle, pod("unload", "Unloaded"))
    assert (acts(unloaded), said(unloaded)) == (NOTHING, LOADED)
    gone = due(somnode(told=LOADED), pod("unload", "Unloaded"))
    assert (acts(gone), said(gone)) == ((True, None), None)


def test_a_pool_that_the_node_still_has_needs_it() -> None:
    assert acts(due(somnode(pool(), module=OURS, told=LOADED))) == NOTHING


def test_a_pool_that_comes_while_it_is_unloaded_has_it_loaded_again() -> None:
    back = somnode(entry(), told=LOADED)
    assert acts(due(back, pod("unload", "Unloaded"))) == (True, None)
    assert acts(due(back)) == (False, "load")


def test_a_module_that_cannot_be_unloaded_yet_says_why() -> None:
    refused = due(somnode(module=OURS, told=LOADED), pod("unload", "InUse", ended_s_ago=0))
    assert (acts(refused), said(refused)) == (NOTHING, LOADED)
    assert refused.condition
    assert refused.condition.message == "no pool needs it, and it is still there: why"


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (pod(answer="NoHeaders"), "NoHeaders"),
        (pod(trouble="OOMKilled"), "PodFailed"),
    ],
    ids=["an answer", "none"],
)
def test_a_failure_is_told_and_tried_again(there: pods.Pod, reason: str) -> None:
    failed = due(somnode(entry(), told=LOADING), there)
    assert (acts(failed), said(failed)) == (NOTHING, ("False", reason))
    assert failed.after_s is not None
    assert 5 <= failed.after_s <= 10
    later = dataclasses.replace(there, ended=NOW - datetime.timedelta(seconds=10))
    again = due(somnode(entry(), told=("False", reason)), later)
    assert (acts(again), again.attempt) == ((True, "load"), 2)
    working = due(somnode(entry(), told=("False", reason)), pod(ended_s_ago=None, attempt=2))
    assert said(working) == ("False", reason)


def test_a_pool_that_comes_back_before_it_is_unloaded_leaves_it_ours() -> None:
    back = somnode(entry(), module=OURS, told=LOADED)
    kept = due(back, pod("unload", "InUse"))
    assert (acts(kept), said(kept)) == ((True, None), LOADED)


def test_a_module_of_another_release_is_told_and_not_loaded_again_and_again() -> None:
    result = results.Result("Loaded", "", "0.0.9", "OLD")
    wrong = due(somnode(entry(), module=OLDER), pod(answer="Loaded", result=result))
    assert (acts(wrong), said(wrong)) == (NOTHING, ("False", "WrongImage"))
    assert wrong.after_s is not None


def test_attempts_become_rare_and_are_the_same_after_a_restart() -> None:
    pauses = []
    for attempt in range(1, 9):
        waits = [due(somnode(entry()), pod(answer="NoHeaders", attempt=attempt)) for _ in range(2)]
        assert waits[0].after_s == waits[1].after_s
        pauses.append(waits[0].after_s or 0)
    assert all(5 * 2**n <= pause <= 10 * 2**n for n, pause in enumerate(pauses[:5]))
    assert max(pauses) <= 300


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_a_clock_that_differs_delays_an_attempt_by_one_pause_at_most(ahead_s: float) -> None:
    wait = due(somnode(entry()), pod(answer="NoHeaders", ended_s_ago=ahead_s))
    assert wait.create or (wait.after_s or 0) <= 10


def test_another_version_is_replaced_on_an_idle_node() -> None:
    old = somnode(entry(), pool(), module=OLDER, told=LOADED)
    assert (acts(due(old)), said(due(old))) == ((False, "load"), LOADING)


def test_another_version_that_containers_hold_waits_and_says_so() -> None:
    busy = due(somnode(entry(), pool(held_bytes=2**30), module=OLDER, told=LOADED))
    assert (acts(busy), said(busy)) == (NOTHING, ("False", "VersionInUse"))
    assert busy.condition
    assert busy.condition.message == (
        f"som.ko 0.0.9 is loaded, and containers hold 1Gi of it: {VERSION} replaces it when they "
        "have ended"
    )


def test_after_a_reboot_it_is_loaded_again() -> None:
    rebooted = due(somnode(entry(), told=LOADED), pod(answer="Loaded", boot_id="boot-0"))
    assert acts(rebooted) == (True, None)
    assert acts(due(somnode(entry(), told=LOADED))) == (False, "load")


def test_a_report_of_another_boot_says_nothing() -> None:
    old = due(somnode(entry(), module=OURS, told=LOADED, boot_id="boot-0"))
    assert (acts(old), said(old)) == (NOTHING, LOADED)


def test_a_pod_of_another_image_gives_way() -> None:
    stuck = due(somnode(entry()), pod(ended_s_ago=None, image="driver:0"))
    assert acts(stuck) == (True, None)


def test_a_pod_that_is_made_can_be_read() -> None:
    made = pods.make(TEMPLATE, node="n", somnode_uid="u", task="unload", boot_id=BOOT, attempt=3)
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "som.io/v1alpha1", "kind": "SomNode", "name": "n", "uid": "u"}
    ]
    assert made["spec"]["nodeName"] == "n"
    made["metadata"] |= {"uid": "p"}
    assert pods.decode(made) == pods.Pod("p", "n", "unload", IMAGE, BOOT, 3)
    assert "name" not in TEMPLATE["metadata"]


def ended(**terminated: Any) -> pods.Pod:
    item: dict[str, Any] = {
        "metadata": {
            "uid": "p",
            "labels": dict(pods.LABELS),
            "creationTimestamp": "2026-11-28T11:00:00Z",
        },
        "spec": TEMPLATE["spec"],
        "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": terminated}}]},
    }
    found = pods.decode(item)
    assert found
    return found


def test_the_end_of_a_pod_is_read_with_its_answer() -> None:
    answer = results.Result("NoHeaders", "why")
    read = ended(
        exitCode=1, reason="Error", finishedAt="2026-11-28T12:00:00Z", message=answer.to_json()
    )
    assert (read.ended, read.result, read.succeeded) == (NOW, answer, False)


def test_an_end_without_an_answer_has_kubelets_words() -> None:
    read = ended(exitCode=137, reason="OOMKilled", message="Killed")
    assert (read.result, read.trouble) == (None, "OOMKilled: Killed")


def test_other_pods_are_none() -> None:
    assert (
        pods.decode({"metadata": {"labels": {"app.kubernetes.io/name": "som"}}, "spec": {}}) is None
    )
