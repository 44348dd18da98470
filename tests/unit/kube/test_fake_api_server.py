import pytest

from fakes import api_server, api_server_contract
from som_api import kube


@pytest.mark.parametrize("check", api_server_contract.CHECKS, ids=lambda check: check.__name__)
async def test_the_fake_keeps_the_contract_of_the_real_server(
    check: api_server_contract.Check, server: api_server.FakeApiServer, client: kube.Client
) -> None:
    server.store.version = 100
    server.store.forget_history()
    server.second_s = 0.01
    await check(client)
