"""The operator and its driver pods, against an API server."""

import pathlib

import pytest

from fakes.object_store import Place
from som_api import VERSION, SomError, kube
from som_operator.loading import driver, pods, results
from unit.operator.cluster import NAMESPACE, Cluster
from waiting import until

TEMPLATE: kube.Json = {
    "metadata": {"namespace": NAMESPACE, "labels": dict(pods.LABELS)},
    "spec": {"containers": [{"name": "driver", "image": "driver:1"}]},
}
KERNEL = {"type": "Kernel"}


@pytest.fixture
def loading(cluster: Cluster) -> Cluster:
    """A cluster whose operator loads the driver; its node `n` is in no pool yet."""
    cluster.driver_pod = TEMPLATE
    cluster.node()
    return cluster


def pod(cluster: Cluster) -> kube.Json | None:
    return cluster.server.store.get(Place("v1", "pods", NAMESPACE, "som-driver-n"))


def task(cluster: Cluster) -> str:
    """What the driver pod has to do; "" where there is none, or it has ended."""
    found = pod(cluster) or {}
    is_over = "status" in found
    return "" if not found or is_over else str(found["spec"]["containers"][0]["args"][0])


def end(cluster: Cluster, answer: str, *, module: str = "") -> None:
    """The driver pod ends with `answer`."""
    found = pod(cluster)
    assert found
    good = answer in (results.LOADED, results.UNLOADED)
    result = results.Result(answer, "why", module, "NEW", "6.12", "b1")
    terminated = {
        "exitCode": 0 if good else 1,
        "message": result.to_json(),
        "finishedAt": cluster.clock.now().isoformat(),
    }
    found["status"] = {
        "phase": "Succeeded" if good else "Failed",
        "containerStatuses": [{"state": {"terminated": terminated}}],
    }
    cluster.server.put("v1", "pods", found)


async def ordered(cluster: Cluster) -> None:
    """The agent has the order of a pool of the driver Kernel, and says that there is no module."""
    cluster.pool(driver=KERNEL)
    await cluster.first_ordered(["n"])
    cluster.report()
    await until(lambda: task(cluster) == "load")


async def loaded(cluster: Cluster) -> None:
    """A pool of the driver Kernel has the module loaded."""
    await ordered(cluster)
    end(cluster, results.LOADED, module=VERSION)
    await until(lambda: cluster.node_condition("DriverLoaded") == ("True", "Loaded"))
    cluster.report(module=VERSION)
    await until(lambda: pod(cluster) is None)


async def test_a_kernel_pool_has_the_module_loaded_and_its_end_has_it_unloaded(
    loading: Cluster,
) -> None:
    async with loading.operator():
        await loaded(loading)
        loading.delete_pool()
        await until(lambda: loading.ordered() == [])
        loading.report(module=VERSION)
        await until(lambda: task(loading) == "unload")
        assert loading.node_condition("DriverLoaded") == ("True", "Loaded")
        end(loading, results.UNLOADED)
        loading.report()
        await until(lambda: loading.node_condition("DriverLoaded") == ("", ""))
        await until(lambda: pod(loading) is None)
    assert [reason for reason in loading.events("n") if reason == "Loaded"] == ["Loaded"]


async def test_other_pools_and_other_operators_have_none_loaded(loading: Cluster) -> None:
    loading.pool("b")
    async with loading.operator():
        await loading.ready(pool="b")
        await loading.quiet()
        assert pod(loading) is None
    loading.driver_pod = None
    loading.pool("b", driver=KERNEL)
    async with loading.operator():
        await loading.quiet()
        assert pod(loading) is None
        assert loading.node_condition("DriverLoaded") == ("", "")


async def test_a_failure_is_an_event_and_a_restart_does_not_repeat_it(loading: Cluster) -> None:
    async with loading.operator():
        await ordered(loading)
        assert loading.node_condition("DriverLoaded") == ("Unknown", "Loading")
        # Time runs ahead of the pause: what is seen at last is a later attempt.
        end(loading, results.NO_HEADERS)
        await until(lambda: task(loading) == "load")
        assert loading.node_condition("DriverLoaded") == ("False", "NoHeaders")
        await loading.quiet()
    found = pod(loading)
    assert found
    assert found["metadata"]["annotations"]["som.io/attempt"] == "2"
    async with loading.operator():
        await loading.quiet()
    assert pod(loading) == found
    assert loading.events("n", ["Warning"]) == ["NotCounted", "NoHeaders"]


async def test_a_cache_that_lags_behind_deletes_no_other_pod(loading: Cluster) -> None:
    async with loading.server.client() as client:
        made = driver.Driver(client, TEMPLATE, loading.clock)
        loading.server.put(
            "v1", "pods", {**TEMPLATE, "metadata": {**TEMPLATE["metadata"], "name": "som-driver-n"}}
        )
        old = pods.Pod("another", "n", "load", "driver:1", "b1", 1)
        with pytest.raises(kube.KubeError) as refused:
            await made.delete(old)
        assert refused.value.is_race
        loading.server.remove("v1", "pods", "som-driver-n", namespace=NAMESPACE)
        await made.delete(old)


def test_a_template_that_is_none_is_refused_with_its_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "pod.yaml"
    for text in ("", "spec: {containers: []}", "{"):
        file.write_text(text)
        with pytest.raises(SomError, match="ConfigMap som-driver"):
            driver.read_template(file)
