import asyncio
import pathlib

import pytest

from fakes.api_server import FakeApiServer
from som_api import SomError
from som_device_plugin import cluster
from unit.agent_cluster.test_orders import somnode
from unit.agent_cluster.test_pods import pod
from unit.kube.test_client import write_kubeconfig
from waiting import DEADLINE_S, until


async def test_the_agent_hears_its_orders_and_pods(
    server: FakeApiServer, tmp_path: pathlib.Path
) -> None:
    server.put("som.io/v1alpha1", "somnodes", somnode("64Mi"))
    server.put("v1", "pods", pod("db", _2Mi="1"))
    path = write_kubeconfig(tmp_path / "config", server, {})
    async with cluster.outside(node_name="node-1", kubeconfig=path) as outside:
        async with asyncio.timeout(DEADLINE_S):
            _, spec = await anext(outside.specs.specs())
        await until(lambda: outside.pods.synced)
        assert [order.name for order in spec.pools] == ["pool-0"]
        assert [known.name for known in outside.pods.pods()] == ["db"]


async def test_an_agent_starts_without_an_api_server_that_answers(
    server: FakeApiServer, tmp_path: pathlib.Path
) -> None:
    path = write_kubeconfig(tmp_path / "config", server, {})
    await server.stop()
    async with cluster.outside(node_name="node-1", kubeconfig=path) as outside:
        await asyncio.sleep(0.05)
        assert not outside.pods.synced
    await server.start()


async def test_an_agent_that_cannot_log_in_says_which_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SomError, match="nowhere"):
        async with cluster.outside(node_name="node-1", kubeconfig=tmp_path / "nowhere"):
            pass
