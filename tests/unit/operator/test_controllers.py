"""The operator against an API server."""

import asyncio
import functools
import gc
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from fakes import api_server
from som_api import v1alpha1
from som_api.plan import observed, plan, tally
from som_operator import controllers, node_events
from unit.operator.cluster import SOM, SOMNODE_PATH, SOMPOOL_PATH, Cluster
from waiting import until

FINALIZER = "som.io/release"


async def test_a_pool_becomes_an_order_then_capacity_then_ready(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool()
    async with cluster.operator():
        await until(lambda: cluster.ordered() == ["a"])
        somnode = cluster.expect(SOM, "somnodes", "n")
        (owner,) = somnode["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == (
            "Node",
            cluster.expect("v1", "nodes", "n")["metadata"]["uid"],
        )
        assert cluster.finalizers() == [FINALIZER]
        assert cluster.capacity() is None
        await until(lambda: cluster.condition() == ("False", "Reserving"))
        cluster.report()
        await until(lambda: cluster.capacity() == "512")
        await until(lambda: cluster.condition() == ("True", "Reserved"))
    status = cluster.expect(SOM, "sompools", "a")["status"]
    assert status["nodes"] == {"matched": 1, "ready": 1, "degraded": 0, "unreachable": 0}
    assert status["capacity"] == "1Gi"


async def test_a_node_that_kubelet_has_not_counted_is_ordered_and_advertises_when_it_has(
    cluster: Cluster,
) -> None:
    cluster.node()
    with cluster.edited("v1", "nodes", "n") as node:
        del node["status"]["capacity"]
    cluster.pool()
    async with cluster.operator():
        await until(lambda: cluster.ordered() == ["a"])
        cluster.report()
        cluster.pool("b", unit="1Gi")
        await until(lambda: cluster.ordered() == ["a", "b"])
        cluster.report()
        with cluster.edited("v1", "nodes", "n") as node:
            node["status"]["capacity"] = {"cpu": "2"}
        await until(lambda: cluster.capacity() == "512")


async def test_a_restart_changes_nothing(cluster: Cluster) -> None:
    async with cluster.working():
        await cluster.quiet()
    before = len(cluster.writes()), cluster.events("n"), cluster.events("a")
    async with cluster.operator():
        await cluster.quiet()
    assert (len(cluster.writes()), cluster.events("n"), cluster.events("a")) == before


async def test_each_transition_is_one_event(cluster: Cluster) -> None:
    async with cluster.working():
        await until(lambda: sorted(cluster.events("n")) == ["NotCounted", "Reserved"])
        await cluster.quiet()
    assert sorted(cluster.events("n")) == ["NotCounted", "Reserved"]
    assert cluster.events("a") == ["Reserving", "Reserved"]


async def test_nothing_is_written_before_every_list_is_complete(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool()

    async def no_pods(request: web.Request) -> web.StreamResponse | None:
        is_pods = request.path == "/api/v1/pods"
        return api_server.status(500, "InternalError", "no") if is_pods else None

    cluster.server.failure = no_pods
    async with cluster.operator() as controllers:
        await until(lambda: cluster.server.verbs().count("list") > 20)
        assert cluster.writes() == []
        assert not controllers.fleet.synced
        cluster.server.failure = None
        await cluster.ready()


async def test_a_list_without_the_pools_takes_nothing_from_a_node(cluster: Cluster) -> None:
    async with cluster.working():
        await cluster.quiet()
    before = len(cluster.writes())

    async def no_pools(request: web.Request) -> web.StreamResponse | None:
        if request.path + "/" != SOMPOOL_PATH or request.query.get("watch"):
            return None
        empty = {"metadata": {"resourceVersion": str(cluster.server.store.version)}, "items": []}
        return web.json_response(empty)

    cluster.server.failure = no_pools
    async with cluster.operator():
        await until(lambda: SOMPOOL_PATH + "a" in [r.path for r in cluster.server.requests[-20:]])
        await cluster.quiet()
    assert len(cluster.writes()) == before
    assert cluster.ordered() == ["a"]


async def test_a_pool_whose_finalizer_was_taken_by_force_leaves_its_nodes(
    cluster: Cluster,
) -> None:
    async with cluster.working():
        cluster.server.remove(SOM, "sompools", "a")
        await until(lambda: cluster.ordered() == [])
        await until(lambda: cluster.capacity() is None)


async def test_the_finalizer_stays_until_the_agents_have_let_go(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.delete_pool()
        await until(lambda: cluster.ordered() == [])
        await until(lambda: cluster.capacity() is None)
        cluster.report(pools=["a"])
        await until(lambda: cluster.condition() == ("False", "Releasing"))
        await cluster.quiet()
        assert cluster.finalizers() == [FINALIZER]
        cluster.report(pools=[])
        await until(lambda: cluster.finalizers() == [])
        await until(lambda: "Released" in cluster.events("n"))
        await until(lambda: "Released" in cluster.events("a"))


async def test_a_deleted_node_does_not_hold_a_pool(cluster: Cluster) -> None:
    cluster.node("m")
    cluster.node("n")
    cluster.pool()
    async with cluster.operator():
        await cluster.ready(nodes=("m", "n"))
        cluster.server.remove("v1", "nodes", "n")
        cluster.delete_pool()
        await until(lambda: cluster.ordered("m") == [])
        cluster.report("m")
        await until(lambda: cluster.finalizers() == [])


async def test_the_last_node_holds_a_pool_until_its_somnode_is_gone(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.server.remove("v1", "nodes", "n")
        cluster.delete_pool()
        await until(lambda: cluster.condition() == ("False", "Releasing"))
        await cluster.quiet()
        assert cluster.finalizers() == [FINALIZER]
        cluster.server.remove(SOM, "somnodes", "n")
        await until(lambda: cluster.finalizers() == [])


async def test_capacity_that_kubelet_zeroes_comes_back_each_time(cluster: Cluster) -> None:
    async with cluster.working():
        for _ in range(3):
            with cluster.edited("v1", "nodes", "n") as node:
                node["status"]["capacity"]["som.io/2Mi"] = "0"
            await until(lambda: cluster.capacity() == "512")


async def test_capacity_falls_with_the_pods_that_hold_it(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool()
    cluster.pod("p", units=100)
    async with cluster.operator():
        await cluster.ready()
        cluster.delete_pool()
        await until(lambda: cluster.capacity() == "100")
        cluster.server.remove("v1", "pods", "p", namespace="som-system")
        await until(lambda: cluster.capacity() is None)


async def test_a_node_recreated_under_its_name_owns_its_somnode(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.server.remove("v1", "nodes", "n")
        cluster.node(boot_id="b2")
        uid = cluster.expect("v1", "nodes", "n")["metadata"]["uid"]
        await until(
            lambda: (
                cluster.expect(SOM, "somnodes", "n")["metadata"]["ownerReferences"][0]["uid"] == uid
            )
        )
        await until(lambda: cluster.condition() == ("False", "Reserving"))
        assert cluster.capacity() is None
        await cluster.ready()


async def test_a_somnode_that_was_deleted_is_ordered_anew(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.server.remove(SOM, "somnodes", "n")
        await until(lambda: cluster.ordered() == ["a"])
        assert cluster.capacity() == "512"


async def test_a_node_gets_the_pool_with_its_label_and_loses_it_with_it(cluster: Cluster) -> None:
    cluster.node(labels={})
    cluster.pool()
    async with cluster.operator():
        await until(lambda: cluster.condition() == ("False", "NoNodes"))
        cluster.node()
        await cluster.ready()
        with cluster.edited("v1", "nodes", "n") as node:
            node["metadata"]["labels"] = {}
        await until(lambda: cluster.ordered() == [])
        cluster.report()
        await until(lambda: cluster.condition() == ("False", "NoNodes"))


async def test_a_pool_without_selector_follows_the_agents(cluster: Cluster) -> None:
    cluster.node("m", agent=False)
    cluster.node("n", agent=False)
    cluster.pool(labels=None)
    async with cluster.operator():
        await until(lambda: cluster.condition() == ("False", "NoNodes"))
        cluster.pod("agent-n", is_agent=True)
        await cluster.ready()
        assert cluster.ordered("m") == []
        cluster.server.remove("v1", "pods", "agent-n", namespace="som-system")
        await cluster.quiet()
        assert cluster.ordered("n") == ["a"]


async def test_a_grown_pool_is_not_ready_until_the_agents_have_more(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.pool(capacity="2Gi")
        await until(lambda: cluster.condition() == ("False", "Reserving"))
        statuses = [r.body["status"] for r in cluster.writes() if r.path.endswith("a/status")]
        of_the_new_spec = [s["conditions"][0] for s in statuses if s["observedGeneration"] == 2]
        assert {ready["status"] for ready in of_the_new_spec} == {"False"}
        await until(lambda: cluster.expect(SOM, "somnodes", "n")["metadata"]["generation"] == 2)
        cluster.report()
        await until(lambda: cluster.capacity() == "1024")


async def test_pools_in_conflict_say_so(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool("b")
    async with cluster.operator():
        await cluster.ready(pool="b")
        cluster.pool("a")
        await until(lambda: cluster.condition("Conflicted", of="a") == ("True", "Conflicted"))
        await until(lambda: cluster.condition("Conflicted", of="b") == ("True", "Conflicted"))
        assert cluster.condition(of="a") == ("False", "Conflicted")
        assert cluster.condition(of="b") == ("True", "Reserved")
        assert cluster.ordered() == ["b"]
        await until(lambda: "Conflicted" in cluster.events("n"))


async def test_a_refused_order_is_tried_again(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool()
    refusals = 0

    async def refuse_twice(request: web.Request) -> web.StreamResponse | None:
        nonlocal refusals
        if request.method == "POST" and request.path == SOMNODE_PATH and refusals < 2:
            refusals += 1
            return api_server.status(500, "InternalError", "etcd has no leader")
        return None

    cluster.server.failure = refuse_twice
    async with cluster.operator():
        await cluster.ready()
    assert cluster.metric("som_operator_reconcile_failures_total", controller="node") == 2


async def test_an_unreadable_pool_changes_nothing_and_blocks_nobody(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool()
    async with cluster.operator():
        await cluster.ready()
    cluster.pool(unit="4Ki")
    cluster.pool("b", labels={"no": "node"})
    async with cluster.operator():
        await until(lambda: cluster.condition(of="b") == ("False", "NoNodes"))
        assert cluster.ordered() == ["a"]
        assert cluster.capacity() == "512"


async def test_a_pool_that_becomes_unreadable_is_frozen(cluster: Cluster) -> None:
    async with cluster.working():
        await cluster.quiet()
        before = len(cluster.writes())
        cluster.pool(unit="4Ki")
        cluster.delete_pool()
        cluster.node("m")
        await cluster.quiet()
        assert len(cluster.writes()) == before
        assert cluster.finalizers() == [FINALIZER]
        assert (cluster.ordered(), cluster.capacity()) == (["a"], "512")


async def test_a_node_whose_somnode_is_unreadable_stays_as_it_is(cluster: Cluster) -> None:
    cluster.node()
    cluster.pool("b")
    async with cluster.operator():
        await cluster.ready(pool="b")
    with cluster.edited(SOM, "somnodes", "n") as somnode:
        somnode["status"]["pools"][0]["driver"] = "OfALaterVersion"
    cluster.pool("a", capacity="2Mi")
    cluster.delete_pool("b")
    async with cluster.operator():
        await until(lambda: cluster.condition(of="b") == ("False", "Releasing"))
        await cluster.quiet()
        assert (cluster.ordered(), cluster.capacity()) == (["b"], "512")
        assert cluster.finalizers("b") == [FINALIZER]
        del somnode["status"]["pools"][0]["driver"]
        cluster.server.put(SOM, "somnodes", somnode)
        await until(lambda: cluster.ordered() != ["b"])


async def test_an_unreadable_somnode_blocks_its_own_pools_only_and_names_itself(
    cluster: Cluster,
) -> None:
    cluster.node("m", labels={"size": "small"})
    cluster.node("n")
    cluster.pool("a")
    cluster.pool("b", labels={"size": "small"})
    async with cluster.operator():
        await cluster.ready(pool="a")
        await cluster.ready(nodes=("m",), pool="b")
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["status"]["pools"][0]["driver"] = "OfALaterVersion"
        await until(lambda: cluster.condition("Degraded", of="a") == ("True", "PartlyReserved"))
        assert "n: its SomNode cannot be read (status.pools.0.driver" in cluster.message(of="a")
        cluster.delete_pool("b")
        await until(lambda: cluster.ordered("m") == [])
        cluster.report("m")
        await until(lambda: cluster.finalizers("b") == [])
        cluster.delete_pool("a")
        await until(lambda: cluster.condition(of="a") == ("False", "Releasing"))
        assert "kubectl delete somnode n" in cluster.message(of="a")
        assert cluster.metric("som_operator_unreadable_objects", resource="somnodes") == 1
        assert (cluster.ordered(), cluster.capacity()) == (["a"], "512")


async def test_a_report_of_more_than_there_is_stops_no_status(cluster: Cluster) -> None:
    cluster.node("m")
    cluster.node("n")
    cluster.pool()
    async with cluster.operator():
        await until(lambda: cluster.ordered("m") == cluster.ordered("n") == ["a"])
        somnode = cluster.expect(SOM, "somnodes", "n")
        somnode["spec"]["pools"][0]["capacity"] = "9223372036852678656"
        cluster.report("m")
        cluster.report("n")
        with cluster.edited(SOM, "somnodes", "n") as liar:
            liar["status"]["pools"][0] |= {"capacity": "9223372036852678656", "allocated": "7Ei"}
        await until(lambda: cluster.condition() == ("True", "Reserved"))
        assert cluster.condition("Progressing") == ("True", "Shrinking")


async def test_an_agent_that_is_gone_for_long_is_told_and_one_that_returns_too(
    cluster: Cluster,
) -> None:
    async with cluster.working():
        await until(lambda: cluster.node_condition("AgentReady") == ("True", "AgentReady"))
        cluster.server.remove("v1", "pods", "agent-n", namespace="som-system")
        await until(lambda: cluster.node_condition("AgentReady") == ("False", "AgentMissing"))
        await until(lambda: cluster.condition() == ("False", "AgentNotReady"))
        assert cluster.condition("Degraded") == ("True", "AgentNotReady")
        assert "n: no agent runs here; compare" in cluster.message()
        assert cluster.metric("som_operator_nodes_without_agent") == 1
        await until(lambda: "AgentMissing" in cluster.events("n"))
        assert (cluster.ordered(), cluster.capacity()) == (["a"], "512")
    async with cluster.operator():
        await cluster.quiet()
        assert cluster.condition() == ("False", "AgentNotReady"), "a restart tells nothing new"
        cluster.pod("agent-n", is_agent=True)
        await until(lambda: cluster.condition() == ("True", "Reserved"))
        await until(lambda: cluster.node_condition("AgentReady") == ("True", "AgentReady"))
        assert cluster.books() == ("True", "NotCounted"), "one condition does not take the other"
        assert cluster.metric("som_operator_nodes_without_agent") == 0


async def test_a_runtime_without_cdi_is_told_with_the_cure_and_one_that_has_it_no_more(
    cluster: Cluster,
) -> None:
    cluster.node()
    cluster.pool()
    async with cluster.operator():
        await cluster.ready()
        cluster.runs_containers_by("containerd://1.7.28")
        told = ("True", "RuntimeWithoutCDI")
        await until(lambda: cluster.node_condition("RuntimeUnfit") == told)
        await until(lambda: cluster.condition() == ("False", "PartlyReserved"))
        assert "n: containerd://1.7.28 would start containers without" in cluster.message()
        await until(lambda: "RuntimeWithoutCDI" in cluster.events("n"))
        assert (cluster.ordered(), cluster.capacity()) == (["a"], None)
        cluster.runs_containers_by("containerd://2.0.1")
        await until(lambda: cluster.condition() == ("True", "Reserved"))
        await until(lambda: cluster.node_condition("RuntimeUnfit") == ("False", "AsExpected"))
        assert cluster.capacity() == "512"


async def test_a_pool_is_deleted_without_a_node_whose_agent_is_gone_when_an_admin_says_so(
    cluster: Cluster,
) -> None:
    async with cluster.working():
        cluster.server.remove("v1", "pods", "agent-n", namespace="som-system")
        cluster.delete_pool()
        await until(lambda: "som.io/skip-release=true" in cluster.message())
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["metadata"]["annotations"] = {"som.io/skip-release": "true"}
        await until(lambda: cluster.finalizers() == [])


async def test_growing_a_pool_is_no_warning(cluster: Cluster) -> None:
    async with cluster.working():
        cluster.pool(capacity="2Gi")
        await until(lambda: cluster.condition() == ("False", "Reserving"))
        await until(lambda: cluster.events("a")[-1:] == ["Reserving"])
        await cluster.quiet()
    assert cluster.events("a", ["Warning"]) == []


async def test_an_edit_of_a_fleet_is_few_events_on_nodes_and_one_that_counts_on_the_pool(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_events, "PER_REASON", 10)
    names = [f"n{number:03}" for number in range(15)]
    for name in names:
        cluster.node(name)
    cluster.pool()
    async with cluster.operator():
        await cluster.ready(nodes=names)
        await cluster.quiet()
    told = [name for name in names if "Reserved" in cluster.events(name)]
    assert len(told) == 10
    assert "Reserved" in cluster.events("a")


async def test_reports_of_many_nodes_are_one_status_of_their_pool(cluster: Cluster) -> None:
    names = [f"n{number}" for number in range(8)]
    for name in names:
        cluster.node(name)
    cluster.pool()
    writes = written = 0

    def count() -> int:
        return sum(request.path.endswith("a/status") for request in cluster.writes())

    async with cluster.operator():
        await cluster.ready(nodes=names)
        await cluster.quiet()
        writes = count()
        for name in names:
            with cluster.edited(SOM, "somnodes", name) as somnode:
                somnode["status"]["pools"][0]["allocated"] = "2Mi"
        await until(lambda: cluster.expect(SOM, "sompools", "a")["status"]["allocated"] == "16Mi")
        await cluster.quiet()
        written = count() - writes
    times = [request.at_s for request in cluster.writes() if request.path.endswith("a/status")]
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times)), times
    assert written <= len(names)


@pytest.mark.parametrize("held", [False, True])
async def test_a_node_that_reports_does_not_wait_behind_a_fleet(
    cluster: Cluster, held: bool
) -> None:
    names = [f"n{number:03}" for number in range(150)]
    for name in names:
        cluster.node(name)
    cluster.pool(finalizers=[FINALIZER] if held else [])

    async def slowly(request: web.Request) -> None:
        if request.method == "POST" and request.path == SOMNODE_PATH:
            await asyncio.sleep(0.02)

    cluster.server.failure = slowly
    async with cluster.operator():
        first = await cluster.first_ordered(names)
        cluster.report(first)
        await until(lambda: cluster.capacity(first) == "512")
        assert sum(cluster.ordered(name) != [] for name in names) < 100


async def test_how_a_pool_stands_does_not_wait_for_what_nodes_are_to_be_told(
    cluster: Cluster,
) -> None:
    async with cluster.working():
        await cluster.quiet()
        answers = asyncio.Event()

        async def hang(request: web.Request) -> None:
            if request.method == "POST" and request.path == SOMNODE_PATH:
                await answers.wait()

        cluster.server.failure = hang
        for number in range(2 * controllers.NODE_WORKERS):
            cluster.node(f"m{number:02}")
        await until(
            lambda: (
                [r.path for r in cluster.server.requests].count(SOMNODE_PATH)
                > controllers.NODE_WORKERS
            )
        )
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["status"]["pools"][0]["allocated"] = "2Mi"
        await until(lambda: cluster.expect(SOM, "sompools", "a")["status"]["allocated"] == "2Mi")
        answers.set()


async def test_a_mistake_about_one_node_is_that_nodes_failure(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.node("m")
    cluster.node("n")
    cluster.pool()
    right = plan.plan_node

    def wrong_about_m(pools: Any, node: observed.Node, *facts: Any, **more: Any) -> plan.NodePlan:
        if node.name == "m":
            raise ZeroDivisionError
        return right(pools, node, *facts, **more)

    monkeypatch.setattr(plan, "plan_node", wrong_about_m)
    async with cluster.operator():
        await cluster.ready()
        failed = "som_operator_reconcile_failures_total"
        await until(lambda: (cluster.metric(failed, controller="node") or 0) > 1)
        assert cluster.ordered("m") == []
        assert cluster.metric(failed, controller="pool") == 0


async def test_what_kubelets_books_lack_is_told_once(cluster: Cluster) -> None:
    async with cluster.working():
        await until(lambda: cluster.books() == ("True", "NotCounted"))
        await until(lambda: "NotCounted" in cluster.events("n"))
        with cluster.edited("v1", "nodes", "n") as node:
            node["status"]["capacity"]["hugepages-2Mi"] = "1Gi"
        await until(lambda: cluster.books() == ("True", "OfferedTwice"))
        cluster.server.remove(SOM, "sompools", "a")
        await until(lambda: cluster.ordered() == [])
        cluster.report(pools=[])
        await until(lambda: cluster.books() == ("False", "BooksAgree"))
        await cluster.quiet()
    assert cluster.events("n").count("NotCounted") == 1


async def test_a_pool_is_deleted_without_a_node_that_is_skipped(cluster: Cluster) -> None:
    async with cluster.working():
        with cluster.edited("v1", "nodes", "n") as node:
            node["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
        cluster.delete_pool()
        await until(lambda: cluster.condition() == ("False", "Releasing"))
        await cluster.quiet()
        assert cluster.finalizers() == [FINALIZER]
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["metadata"]["annotations"] = {"som.io/skip-release": "true"}
        await until(lambda: cluster.finalizers() == [])
        assert cluster.ordered() == []


async def test_metrics_count_pools_and_nodes_by_state(cluster: Cluster) -> None:
    async with cluster.working():
        value = cluster.metric
        await until(lambda: value("som_operator_pools", reason="Reserved") == 1)
        assert value("som_operator_pool_nodes", pool="a", state="reserved") == 1
        assert value("som_operator_pool_nodes", pool="a", state="reserving") == 0
        assert (value("som_operator_reconciles_total", controller="pool") or 0) > 0
        assert value("som_operator_nodes") == 1


async def test_a_report_that_changes_sums_alone_is_no_work_for_its_node(cluster: Cluster) -> None:
    async with cluster.working():
        await cluster.quiet()
        before = cluster.metric("som_operator_reconciles_total", controller="node")
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["status"]["pools"][0]["allocated"] = "512Mi"
        pool = functools.partial(cluster.expect, SOM, "sompools", "a")
        await until(lambda: pool()["status"]["allocated"] == "512Mi")
        assert cluster.metric("som_operator_reconciles_total", controller="node") == before
        with cluster.edited(SOM, "somnodes", "n") as somnode:
            somnode["status"]["pools"][0]["capacity"] = "512Mi"
        await until(lambda: cluster.capacity() == "256")


async def test_a_node_is_planned_once_for_an_edit_and_once_for_its_somnode_that_follows(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{number:02}" for number in range(2 * controllers.NODE_WORKERS)]
    for name in names:
        cluster.node(name)
    cluster.pool()
    planned: list[str] = []
    right = plan.plan_node

    def counted(pools: Any, node: observed.Node, *facts: Any, **more: Any) -> plan.NodePlan:
        planned.append(node.name)
        return right(pools, node, *facts, **more)

    async with cluster.operator():
        await cluster.ready(nodes=names)
        await cluster.quiet()
        monkeypatch.setattr(plan, "plan_node", counted)
        cluster.pool(capacity="2Gi")
        await until(lambda: cluster.condition() == ("False", "Reserving"))
        await cluster.quiet()
    assert sorted(planned) == sorted(2 * names)


async def test_a_report_makes_one_plan_and_one_status_whatever_the_size_of_the_fleet(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{number:02}" for number in range(20)]
    for name in names:
        cluster.node(name)
    cluster.pool()
    done: list[str] = []

    def count(module: Any, function: str, said: Callable[..., str]) -> None:
        right = getattr(module, function)

        def counted(*arguments: Any, **named: Any) -> Any:
            done.append(said(*arguments, **named))
            return right(*arguments, **named)

        monkeypatch.setattr(module, function, counted)

    async with cluster.operator():
        await cluster.ready(nodes=names)
        await cluster.quiet()
        count(plan, "plan_node", lambda _pools, node, *_, **__: f"plan of {node.name}")
        count(tally, "_group", lambda _here: "group of a node")
        count(v1alpha1.Condition, "__init__", lambda _self, **fields: f"condition {fields['type']}")
        with cluster.edited(SOM, "somnodes", "n07") as somnode:
            somnode["status"]["pools"][0]["allocated"] = "2Mi"
        await until(lambda: cluster.expect(SOM, "sompools", "a")["status"]["allocated"] == "2Mi")
        await cluster.quiet()
    pool = [f"condition {kind}" for kind in ("Ready", "Progressing", "Degraded", "Conflicted")]
    # The pool's status is looked at again for the echo of its write; kubelet of n07 does not count
    # the pool's pages, which a fleet at rest would not say.
    assert sorted(done) == sorted(
        ["plan of n07", *2 * ["group of a node"], "condition BooksPending", *2 * pool]
    )


async def test_reports_leave_no_cycles_for_which_python_would_search_all_caches(
    cluster: Cluster,
) -> None:
    def is_told(amount: str) -> bool:
        return bool(cluster.expect(SOM, "sompools", "a")["status"]["allocated"] == amount)

    async with cluster.working():
        await cluster.quiet()
        gc.collect()
        gc.disable()
        try:
            for number in range(1, 11):
                with cluster.edited(SOM, "somnodes", "n") as somnode:
                    somnode["status"]["pools"][0]["allocated"] = f"{number}Mi"
                await until(functools.partial(is_told, f"{number}Mi"))
            await cluster.quiet()
            assert gc.collect() == 0
        finally:
            gc.enable()
