import datetime

import pytest

from fakes.api_server import FakeApiServer
from som_api import kube, v1alpha1

NOW = datetime.datetime(2026, 11, 24, 12, 0, 0, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(minutes=5)
POOL = kube.ObjectRef(kube.SOMPOOLS, "databases", uid="1-2-3")


def condition(
    kind: str, status: str, reason: str = "Tested", message: str = ""
) -> v1alpha1.Condition:
    return v1alpha1.Condition.model_validate(
        {"type": kind, "status": status, "reason": reason, "message": message}
    )


class Pool:
    """A SomPool in the fake server whose status is published through `kube.publish`."""

    def __init__(self, server: FakeApiServer, client: kube.Client) -> None:
        self._server = server
        self._client = client
        self.events: list[tuple[str, bool]] = []
        server.put("som.io/v1alpha1", "sompools", {"metadata": {"name": "databases"}})

    def emit(
        self, target: kube.ObjectRef, *, reason: str, message: str, warning: bool = False
    ) -> None:
        assert target == POOL
        self.events.append((reason, warning))

    async def status(self) -> v1alpha1.SomPoolStatus:
        item = await self._client.get(POOL.path())
        return v1alpha1.SomPoolStatus.model_validate(item.get("status", {}))

    async def publish(
        self,
        *conditions: v1alpha1.Condition,
        now: datetime.datetime = NOW,
        manager: str = "som-operator",
        **fields: object,
    ) -> str:
        return await kube.publish(
            self._client,
            self,
            POOL,
            current=await self.status(),
            wanted=v1alpha1.SomPoolStatus.model_validate({"conditions": conditions, **fields}),
            field_manager=manager,
            now=now,
        )


@pytest.fixture
def pool(server: FakeApiServer, client: kube.Client) -> Pool:
    return Pool(server, client)


async def test_a_status_that_did_not_change_takes_no_request(
    pool: Pool, server: FakeApiServer
) -> None:
    wanted = condition("Ready", "True")
    assert await pool.publish(wanted, capacity=2**30)
    assert not await pool.publish(wanted, capacity=2**30, now=LATER)
    assert server.verbs().count("patch") == 1


async def test_the_transition_time_stays_while_the_status_does(pool: Pool) -> None:
    await pool.publish(condition("Ready", "False", "Reserving"))
    await pool.publish(condition("Ready", "False", "PartlyReserved"), now=LATER)
    (ready,) = (await pool.status()).conditions
    assert (ready.reason, ready.last_transition_time) == ("PartlyReserved", "2026-11-24T12:00:00Z")
    await pool.publish(condition("Ready", "True"), now=LATER)
    (ready,) = (await pool.status()).conditions
    assert ready.last_transition_time == "2026-11-24T12:05:00Z"


async def test_a_new_generation_is_written_though_nothing_else_changed(pool: Pool) -> None:
    seen = condition("Ready", "True").model_copy(update={"observed_generation": 1})
    assert await pool.publish(seen)
    assert await pool.publish(seen.model_copy(update={"observed_generation": 2}), now=LATER)
    (ready,) = (await pool.status()).conditions
    assert (ready.observed_generation, ready.last_transition_time) == (2, "2026-11-24T12:00:00Z")


async def test_conditions_of_others_stay_and_cost_nothing(
    pool: Pool, server: FakeApiServer
) -> None:
    await pool.publish(condition("Ready", "True"), manager="one")
    await pool.publish(condition("Progressing", "False"), manager="two")
    before = len(server.requests)
    assert not await pool.publish(condition("Ready", "True"), manager="one", now=LATER)
    assert "patch" not in server.verbs()[before:]
    assert {c.type for c in (await pool.status()).conditions} == {"Ready", "Progressing"}


async def test_only_fields_that_were_set_are_written(pool: Pool, server: FakeApiServer) -> None:
    await pool.publish(condition("Ready", "True"), allocated=2**21)
    body = server.requests[-1].body
    assert set(body["status"]) == {"conditions", "allocated"}
    assert body["metadata"] == {"name": "databases"}


async def test_each_transition_is_one_event(pool: Pool) -> None:
    await pool.publish(condition("Ready", "False", "Reserving"), condition("Degraded", "False"))
    assert pool.events == []
    await pool.publish(condition("Ready", "True", "Reserved"), condition("Degraded", "False"))
    await pool.publish(condition("Ready", "True", "Reserved"), condition("Degraded", "False"))
    assert pool.events == [("Reserved", False)]
    await pool.publish(
        condition("Ready", "False", "PartlyReserved"), condition("Degraded", "True", "NoMemory")
    )
    assert pool.events[1:] == [("PartlyReserved", True), ("NoMemory", True)]


async def test_trouble_that_is_there_from_the_start_is_an_event(pool: Pool) -> None:
    await pool.publish(
        condition("Conflicted", "True", "SameResource"), condition("Progressing", "True", "Growing")
    )
    assert pool.events == [("SameResource", True), ("Growing", False)]
