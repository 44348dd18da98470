import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from fakes import failures
from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from fakes.object_store import Place
from som_api import kube, v1alpha1
from som_device_plugin import seams
from som_device_plugin.cluster import orders, reporter
from waiting import until

NODE = "node-1"
PLACE = Place("som.io/v1alpha1", "somnodes", "", NODE)


def status(*, free_units: int = 32, ready: bool = True) -> v1alpha1.SomNodeStatus:
    condition = v1alpha1.Condition(
        type="Ready",
        status="True" if ready else "False",
        reason="Reserved" if ready else "Reserving",
    )
    pool = v1alpha1.PoolStatus(
        name="databases",
        generation=1,
        unit="2Mi",
        capacity=64 * 2**20,
        allocated=(32 - free_units) * 2**21,
        free=free_units * 2**21,
        conditions=(condition,),
    )
    return v1alpha1.SomNodeStatus(boot_id="abc", pools=(pool,), conditions=(condition,))


class Reports:
    """The agent's reporter beside the watch of its SomNode, and what the server got."""

    def __init__(self, server: FakeApiServer, client: kube.Client, clock: FakeClock) -> None:
        self._server = server
        self.recorder = kube.Recorder(client, component="som-agent", instance=NODE, time=clock)
        self.orders = orders.NodeOrders(client, node_name=NODE, time=clock)
        self.reporter = reporter.StatusReporter(
            client,
            self.recorder,
            node_name=NODE,
            ordered=self.orders,
            time=clock,
            jitter=random.Random(0),
        )

    @property
    def free(self) -> str | None:
        """The free memory of the only pool, as the server has it."""
        item = self._server.store.get(PLACE) or {}
        pools = item.get("status", {}).get("pools", [{}])
        return pools[0].get("free") if pools else None

    @property
    def writes(self) -> list[kube.Json]:
        return [r.body for r in self._server.requests if r.path.endswith(f"{NODE}/status")]

    @property
    def echoed(self) -> bool:
        """Whether the watch has brought the status that the server has."""
        item = self._server.store.get(PLACE) or {}
        observed = self.orders.observed
        return observed is not None and observed.status == v1alpha1.SomNodeStatus.model_validate(
            item.get("status", {})
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Reports"]:
        parts = (self.recorder, self.orders.watch, self.reporter)
        tasks = [asyncio.create_task(part.run()) for part in parts]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.fixture
def reports(server: FakeApiServer, client: kube.Client, clock: FakeClock) -> Reports:
    server.put("som.io/v1alpha1", "somnodes", {"metadata": {"name": NODE}, "spec": {"pools": []}})
    return Reports(server, client, clock)


async def test_a_status_is_written_by_apply_of_the_agent(
    reports: Reports, server: FakeApiServer
) -> None:
    async with reports.running():
        await reports.reporter.report(status())
        await until(lambda: reports.free == "64Mi")
    (body,) = reports.writes
    (pool,) = body["status"]["pools"]
    assert (pool["name"], pool["driver"], pool["capacity"]) == ("databases", "HugeTLBFS", "64Mi")
    assert pool["conditions"][0]["lastTransitionTime"]
    assert body["status"]["conditions"][0]["lastTransitionTime"]
    assert server.store.get(PLACE)["spec"] == {"pools": []}  # type: ignore[index]


async def test_the_same_status_is_not_written_again(reports: Reports) -> None:
    async with reports.running():
        await reports.reporter.report(status())
        await until(lambda: reports.echoed and reports.free == "64Mi")
        for _ in range(3):
            await reports.reporter.report(status())
            reports.orders.changed.ring()
            await asyncio.sleep(0.02)
    assert len(reports.writes) == 1


async def test_many_changes_are_written_as_one(reports: Reports) -> None:
    async with reports.running():
        await until(lambda: reports.orders.observed is not None)
        for units in range(32, 0, -1):
            await reports.reporter.report(status(free_units=units))
        await until(lambda: reports.free == "2Mi")
    assert len(reports.writes) == 1


async def test_transition_times_stay_while_only_figures_change(
    reports: Reports, clock: FakeClock
) -> None:
    async with reports.running():
        await reports.reporter.report(status(free_units=32))
        await until(lambda: reports.echoed and reports.free == "64Mi")
        await clock.sleep(3600)
        await reports.reporter.report(status(free_units=1))
        await until(lambda: reports.free == "2Mi")
    first, second = [body["status"] for body in reports.writes]
    assert second["conditions"] == first["conditions"]
    assert second["pools"][0]["conditions"] == first["pools"][0]["conditions"]


@pytest.mark.parametrize("failure", ["HTTP 500", "HTTP 401", "garbage bytes"])
async def test_only_the_newest_status_is_written_when_the_server_is_back(
    failure: str, reports: Reports, server: FakeApiServer, clock: FakeClock
) -> None:
    async def passed(until_s: float) -> None:
        await until(lambda: clock.monotonic() > until_s)

    async with reports.running():
        await until(lambda: reports.orders.observed is not None)
        server.failure = failures.ALL[failure]
        for number, units in enumerate((30, 20, 10), start=1):
            await reports.reporter.report(status(free_units=units))
            await passed(100 * number)
        tries = [r.at_s for r in server.requests if r.path.endswith("/status")]
        assert max(sum(t <= u < t + 30 for u in tries) for t in tries) <= 10
        server.failure = None
        await until(lambda: reports.free == "20Mi")
    assert reports.writes[-1]["status"]["pools"][0]["free"] == "20Mi"


async def test_a_somnode_that_comes_later_gets_the_status(
    reports: Reports, server: FakeApiServer
) -> None:
    server.remove("som.io/v1alpha1", "somnodes", NODE)
    async with reports.running():
        await reports.reporter.report(status())
        await asyncio.sleep(0.05)
        assert reports.writes == []
        server.put("som.io/v1alpha1", "somnodes", {"metadata": {"name": NODE}, "spec": {}})
        await until(lambda: reports.free == "64Mi")


async def test_a_status_that_somebody_changed_is_put_right(
    reports: Reports, server: FakeApiServer
) -> None:
    async with reports.running():
        await reports.reporter.report(status())
        await until(lambda: reports.free == "64Mi")
        item = server.store.get(PLACE)
        assert item is not None
        item["status"]["pools"][0]["free"] = "1Gi"
        server.store.put(PLACE, item)
        await until(lambda: reports.free == "64Mi")


async def test_an_agent_that_cannot_read_its_orders_says_so_until_it_can(
    reports: Reports, server: FakeApiServer
) -> None:
    def ready() -> kube.Json:
        item = server.store.get(PLACE) or {}
        conditions: list[kube.Json] = item.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == "Ready"), {})

    def order(capacity: str) -> None:
        item = server.store.get(PLACE)
        assert item is not None
        source = {"hugeTLB": {"pageSize": "2Mi"}}
        pool = {"name": "a", "generation": 1, "unit": "2Mi", "capacity": capacity, "source": source}
        item["spec"] = {"pools": [pool]}
        server.store.put(PLACE, item)

    async with reports.running():
        await reports.reporter.report(status())
        await until(lambda: ready().get("reason") == "Reserved")
        order("lots")
        await until(lambda: ready().get("reason") == "OrdersUnreadable")
        assert ready()["status"] == "False"
        assert "pools[0].capacity: 'lots' is not a quantity" in ready()["message"]
        assert reports.free == "64Mi"
        order("64Mi")
        await until(lambda: ready().get("reason") == "Reserved")


async def test_a_mistake_in_one_report_does_not_end_the_reports(
    reports: Reports, client: kube.Client, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Mistaken(orders.NodeOrders):
        mistakes = [ZeroDivisionError(), ZeroDivisionError()]

        @property
        def observed(self) -> orders.Observed | None:
            if self.mistakes:
                raise self.mistakes.pop()
            return super().observed

    reports.orders = Mistaken(client, node_name=NODE, time=clock)
    reports.reporter = reporter.StatusReporter(
        client, reports.recorder, node_name=NODE, ordered=reports.orders, time=clock
    )
    async with reports.running():
        await reports.reporter.report(status())
        await until(lambda: reports.free == "64Mi")
    assert caplog.text.count("Traceback") == 2


async def test_losing_readiness_is_a_warning_on_the_node(
    reports: Reports, server: FakeApiServer
) -> None:
    async with reports.running():
        await reports.reporter.report(status())
        await until(lambda: reports.echoed and reports.free == "64Mi")
        await reports.reporter.report(status(free_units=1, ready=False))
        await until(lambda: len(server.store.list(Place("v1", "events"))) == 2)
    events = [item for _, item in server.store.list(Place("v1", "events"))]
    assert {(e["reason"], e["type"], e["involvedObject"]["name"]) for e in events} == {
        ("Reserved", "Normal", NODE),
        ("Reserving", "Warning", NODE),
    }
    assert {event["involvedObject"]["kind"] for event in events} == {"Node"}


async def test_an_event_of_the_agent_is_put_on_the_node(
    reports: Reports, server: FakeApiServer
) -> None:
    async with reports.running():
        await reports.reporter.event(seams.Event("LeaseDamaged", "truncated", warning=True))
        await until(lambda: len(server.store.list(Place("v1", "events"))) == 1)
    ((_, event),) = server.store.list(Place("v1", "events"))
    assert (event["type"], event["involvedObject"]["uid"]) == ("Warning", NODE)
    assert event["source"]["component"] == "som-agent"
