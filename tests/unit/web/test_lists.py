"""The lists of the fleet API: pages, filters, what is refused."""

import weakref

import pytest
from starlette import types

from fakes import asgi
from fakes.fleet import GIB, FakeFleet
from fakes.reviewer import ADMIN
from som_api.web import fleet as fleets
from som_api.web import rows


async def test_pools_say_what_is_asked_for_and_what_is_there(web: types.ASGIApp) -> None:
    answer = await asgi.get(web, "/api/v1/pools", token=ADMIN)
    assert answer.status == 200
    first, second = answer.json()["items"]
    assert first["name"] == "databases"
    assert first["nodeCapacityBytes"] == 64 * GIB
    assert first["ready"] == "True"
    assert second["reason"] == "PartlyReserved"


async def test_a_node_says_its_first_trouble(fleet: FakeFleet, web: types.ASGIApp) -> None:
    fleet.set_ready("node-0001", agent=False)
    answer = await asgi.get(web, "/api/v1/nodes/node-0001", token=ADMIN)
    assert (answer.json()["ready"], answer.json()["reason"]) == (False, "AgentNotReady")


async def test_a_change_is_in_the_next_answer(fleet: FakeFleet, web: types.ASGIApp) -> None:
    await asgi.get(web, "/api/v1/nodes/node-0001", token=ADMIN)
    fleet.allocate("node-0001", 5 * GIB)
    answer = await asgi.get(web, "/api/v1/nodes/node-0001", token=ADMIN)
    assert answer.json()["allocatedBytes"] == 5 * GIB


@pytest.mark.parametrize("what", ["pools", "nodes", "leases", "events"])
async def test_pages_together_are_the_list(what: str, web: types.ASGIApp) -> None:
    whole = (await asgi.get(web, f"/api/v1/{what}", token=ADMIN)).json()
    assert whole["continue"] == ""
    found, more = [], ""
    while True:
        page = (await asgi.get(web, f"/api/v1/{what}?limit=1&continue={more}", token=ADMIN)).json()
        assert len(page["items"]) <= 1
        found += page["items"]
        if not (more := page["continue"]):
            break
    assert found == whole["items"]


@pytest.mark.parametrize(
    ("filtered", "count"),
    [
        ("pools?ready=false", 1),
        ("nodes?ready=true", 3),
        ("nodes?pool=gen-2.scratch", 1),
        ("nodes?pool=none", 0),
        ("leases?node=node-0001", 2),
        ("leases?namespace=shop", 3),
        ("leases?pod=pod-1.of.node-0001", 1),
        ("leases?pool=gen-2.scratch", 0),
        ("events?kind=Node&type=Warning", 3),
        ("events?name=node-0001", 1),
    ],
)
async def test_filters(filtered: str, count: int, web: types.ASGIApp) -> None:
    answer = await asgi.get(web, f"/api/v1/{filtered}", token=ADMIN)
    assert len(answer.json()["items"]) == count


@pytest.mark.parametrize(
    ("target", "status", "told"),
    [
        ("nodes?limit=0", 400, "limit"),
        ("nodes?limit=5001", 400, "limit"),
        ("nodes?limit=many", 400, "limit"),
        ("nodes?continue=AAAA", 400, "begin the list without it"),
        ("nodes?continue=WzFd", 400, "begin the list without it"),
        ("leases?namespaec=shop", 400, "namespaec"),
        ("nodes/none", 404, "none"),
        ("pools/none", 404, "none"),
        ("nothing", 404, "openapi.json"),
        (f"nodes?pool={'x' * 254}", 400, "pool"),
        (f"nodes?pool={'x' * 5000}", 414, "query"),
        (f"nodes/{'x' * 5000}", 414, "path"),
    ],
)
async def test_what_is_wrong_is_refused_with_a_cure(
    target: str, status: int, told: str, web: types.ASGIApp
) -> None:
    answer = await asgi.get(web, f"/api/v1/{target}", token=ADMIN)
    assert answer.status == status
    assert (answer.json()["kind"], answer.json()["code"]) == ("Status", status)
    assert told in answer.json()["message"]


async def test_a_list_waits_for_whole_caches(fleet: FakeFleet, web: types.ASGIApp) -> None:
    fleet.synced = False
    answer = await asgi.get(web, "/api/v1/nodes", token=ADMIN)
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


async def test_no_answer_is_kept_by_others(web: types.ASGIApp) -> None:
    answer = await asgi.get(web, "/api/v1/pools", token=ADMIN)
    assert answer.headers["cache-control"] == "no-store"


async def test_agents_that_do_not_answer_are_named(
    fleet: FakeFleet, reviewer: object, web: types.ASGIApp
) -> None:
    fleet.dead.add("node-0000")
    answer = (await asgi.get(web, "/api/v1/leases", token=ADMIN)).json()
    assert len(answer["items"]) == 4
    (missing,) = answer["incomplete"]
    assert missing["node"] == "node-0000"
    assert missing["reason"].startswith("connection refused")


class Made:
    """What a test makes of a node."""

    living: weakref.WeakSet["Made"] = weakref.WeakSet()

    def __init__(self, node: fleets.Node) -> None:
        self.node = node
        self.living.add(self)


def test_what_was_made_of_a_node_stands_until_the_node_changes_and_not_for_ever(
    fleet: FakeFleet,
) -> None:
    kept = rows.Kept(fleet, Made)
    first = kept.of("node-0001")
    fleet.allocate("node-0000", GIB)
    assert kept.of("node-0001") is first
    fleet.allocate("node-0001", GIB)
    assert kept.of("node-0001") is not first
    del first
    for number in range(1000):
        fleet.add(f"for-an-hour-{number}")
        assert kept.of(f"for-an-hour-{number}")
        fleet.remove(f"for-an-hour-{number}")
    assert len(Made.living) <= 100
    assert kept.of("for-an-hour-999") is None
