import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web

from fakes import api_server, failures
from fakes.api_server import FakeApiServer
from fakes.clock import FakeClock
from som_api import kube
from som_api.kube import client as kube_client
from som_api.kube import reflector
from unit.kube.watching import Watching, node
from waiting import until


def watched(server: FakeApiServer, times: int) -> Callable[[], bool]:
    return lambda: server.verbs().count("watch") == times


def has_slept(clock: FakeClock, times: int) -> Callable[[], bool]:
    return lambda: len(clock.sleeps) >= times


async def news_by_turn(watching: Watching, objects: int) -> list[int]:
    """How many objects each turn of the event loop brought, until there are so many."""
    turns, seen = [], 0
    while len(watching.seen) < objects:
        await asyncio.sleep(0)
        if len(watching.seen) > seen:
            turns.append(len(watching.seen) - seen)
            seen = len(watching.seen)
    return turns


async def test_objects_are_listed_and_then_followed(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("b"))
        server.put("v1", "nodes", node("a", "2"))
        server.remove("v1", "nodes", "b")
        await until(lambda: len(watching.changes) == 4)
    assert watching.changes == [
        ("a", None, "1"),
        ("b", None, "1"),
        ("a", "1", "2"),
        ("b", "1", None),
    ]
    assert watching.seen == {"a": "2"}
    assert server.verbs() == ["list", "watch"]


async def test_a_long_list_comes_in_pages(
    server: FakeApiServer,
    client: kube.Client,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_client, "PAGE_SIZE", 2)
    for name in "abcde":
        server.put("v1", "nodes", node(name))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
    assert sorted(watching.seen) == ["a", "b", "c", "d", "e"]
    assert server.verbs()[:3] == ["list", "list", "list"]


async def test_a_selector_restricts_list_and_watch(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a"))
    server.put("v1", "nodes", node("b"))
    async with Watching(client, clock, field_selector="metadata.name=a").running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("b", "2"))
        server.put("v1", "nodes", node("a", "2"))
        await until(lambda: watching.seen == {"a": "2"})
    assert [name for name, _, _ in watching.changes] == ["a", "a"]


async def test_a_change_of_fields_that_nobody_keeps_is_no_change(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("a", heartbeat="12:00"))
        server.put("v1", "nodes", node("b"))
        await until(lambda: "b" in watching.seen)
    assert [name for name, _, _ in watching.changes] == ["a", "b"]


async def test_an_object_of_no_interest_is_left_out(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a", "boring"))
    server.put("v1", "nodes", node("b"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("a", "1"))
        server.put("v1", "nodes", node("b", "boring"))
        await until(lambda: watching.seen == {"a": "1"})
    assert watching.changes == [("b", None, "1"), ("a", None, "1"), ("b", "1", None)]


async def test_an_object_deleted_while_away_is_delivered_as_deletion(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("stays"))
    server.put("v1", "nodes", node("goes"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        await server.stop()
        server.remove("v1", "nodes", "goes")
        server.store.forget_history()
        await server.start()
        await until(lambda: ("goes", "1", None) in watching.changes)
    assert watching.seen == {"stays": "1"}


async def test_one_made_anew_under_its_name_while_away_is_one_change(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a", "old"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        await server.stop()
        server.remove("v1", "nodes", "a")
        server.put("v1", "nodes", node("a", "new"))
        server.store.forget_history()
        await server.start()
        await until(lambda: watching.seen == {"a": "new"})
    assert watching.changes == [("a", None, "old"), ("a", "old", "new")]


@pytest.mark.parametrize("name", failures.ALL)
async def test_a_failure_never_empties_the_cache(
    name: str, server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a"))
    watching = Watching(client, clock, idle_timeout_s=0.05)
    async with watching.running():
        await watching.reflector.wait_synced()
        server.failure = failures.ALL[name]
        await server.end_watches()
        before = len(clock.sleeps)
        if name == "half-open TCP before headers":
            await server.stop()
        await until(lambda: len(clock.sleeps) >= before + 3)
        assert watching.seen.get("a") == "1"
        assert watching.reflector.synced


async def test_nothing_is_synced_before_a_list_is_complete(
    server: FakeApiServer,
    client: kube.Client,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_client, "PAGE_SIZE", 1)
    server.put("v1", "nodes", node("a"))
    server.put("v1", "nodes", node("b"))

    async def fail_second_page(request: web.Request) -> web.StreamResponse | None:
        return await failures.ALL["HTTP 500"](request) if "continue" in request.query else None

    server.failure = fail_second_page
    async with Watching(client, clock).running() as watching:
        await until(lambda: len(clock.sleeps) >= 3)
        assert not watching.reflector.synced
        assert watching.seen == {}
        server.failure = None
        await watching.reflector.wait_synced()
    assert sorted(watching.seen) == ["a", "b"]


async def test_a_watch_that_ends_is_taken_up_where_it_was(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        for value in "2345":
            await server.end_watches()
            server.put("v1", "nodes", node("a", value))
            await until(watching.has(a=value))
    assert server.verbs().count("list") == 1
    assert [new for _, _, new in watching.changes] == ["1", "2", "3", "4", "5"]


async def test_a_busy_process_reads_its_watch_faster_than_one_event_a_turn(
    server: FakeApiServer, clock: FakeClock
) -> None:
    async with server.client() as client, Watching(client, clock).running() as nodes:
        await until(lambda: nodes.reflector.synced)
        for number in range(400):
            server.put("v1", "nodes", node(f"n{number}"))
        turns = await news_by_turn(nodes, 400)
    assert len(turns) < 100
    assert max(turns) <= reflector.A_TURN, "everybody else waits as long"


async def test_a_long_list_is_taken_in_by_turns(server: FakeApiServer, clock: FakeClock) -> None:
    for number in range(400):
        server.put("v1", "nodes", node(f"n{number}"))
    async with server.client() as client, Watching(client, clock).running() as nodes:
        turns = await news_by_turn(nodes, 400)
    assert max(turns) <= reflector.A_TURN, "everybody else waits as long"


async def test_a_quiet_watch_that_stood_for_a_while_is_taken_up_at_once(
    server: FakeApiServer, client: kube.Client
) -> None:
    clock = FakeClock()
    async with Watching(client, clock).running():
        await until(lambda: server.verbs() == ["list", "watch"])
        for watches in range(2, 6):
            await clock.advance(reflector.STEADY_S)
            await server.end_watches()
            await until(watched(server, watches))
    assert clock.sleeps == []


async def test_a_watch_that_brought_news_is_taken_up_at_once_however_often_it_is_ended(
    server: FakeApiServer, client: kube.Client
) -> None:
    clock = FakeClock()
    server.put("v1", "nodes", node("a", "0"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        for watches in range(1, 20):
            await until(watched(server, watches))
            server.put("v1", "nodes", node("a", str(watches)))
            await until(watching.has(a=str(watches)))
            await server.end_watches()
            await clock.advance(reflector.SPACING_S)
    assert max(clock.sleeps) <= reflector.SPACING_S
    assert server.verbs().count("list") == 1


async def test_a_bookmark_saves_a_list(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    selected = Watching(client, clock, field_selector="metadata.name=quiet")
    async with selected.running() as watching:
        await until(lambda: "watch" in server.verbs())
        server.put("v1", "nodes", node("busy"))
        await clock.settle()  # The watch of the server is as far.
        server.store.forget_history()
        await server.end_watches()
        await until(lambda: server.verbs().count("watch") == 2)
        server.put("v1", "nodes", node("quiet"))
        await until(lambda: watching.seen == {"quiet": "1"})
    assert server.verbs().count("list") == 1


async def test_a_version_that_is_too_old_is_listed_anew_at_once(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    async with Watching(client, clock).running():
        await until(lambda: "watch" in server.verbs())
        await server.stop()
        server.put("v1", "nodes", node("a"))
        server.store.forget_history()
        await server.start()
        await until(lambda: server.verbs().count("list") == 2)
    assert server.verbs()[:4] == ["list", "watch", "watch", "list"]


async def test_a_server_that_was_away_is_asked_only_for_what_changed(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    async with Watching(client, clock).running() as watching:
        await until(lambda: "watch" in server.verbs())
        await server.stop()
        await until(lambda: len(clock.sleeps) > 5)
        server.put("v1", "nodes", node("a"))
        await server.start()
        await until(lambda: watching.seen == {"a": "1"})
    assert server.verbs().count("list") == 1


async def test_an_unreadable_object_keeps_its_last_known_state_and_is_named(
    server: FakeApiServer, client: kube.Client, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("v1", "nodes", node("a"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        for heartbeat in "123":
            server.put("v1", "nodes", node("a", "unreadable", heartbeat=heartbeat))
        server.put("v1", "nodes", node("b"))
        await until(lambda: "b" in watching.seen)
        assert watching.seen == {"a": "1", "b": "1"}
        assert watching.unreadable == {"a": "ValueError('from a newer version')"}
        server.put("v1", "nodes", node("a", "1", back="yes"))
        await until(lambda: not watching.unreadable)
    assert watching.changes == [
        ("a", None, "1"),
        ("a", "1", "1"),
        ("b", None, "1"),
        ("a", "1", "1"),
    ]
    assert caplog.text.count("Node a cannot be read") == 1


async def test_an_unreadable_object_hides_no_other_and_is_known_to_exist(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("poison", "unreadable"))
    server.put("v1", "nodes", node("before"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("poison 2", "unreadable"))
        server.put("v1", "nodes", node("after"))
        await until(lambda: "after" in watching.seen)
        assert watching.unreadable.keys() == {"poison", "poison 2"}
        server.remove("v1", "nodes", "poison")
        server.put("v1", "nodes", node("poison 2", "fine"))
        await until(lambda: not watching.unreadable)
    assert watching.seen == {"before": "1", "after": "1", "poison 2": "fine"}
    assert [change for change in watching.changes if change[0] == "poison"] == [
        ("poison", None, None),
        ("poison", None, None),
    ]
    assert server.verbs() == ["list", "watch"]


async def test_an_unreadable_object_that_went_while_away_is_forgotten(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a", "unreadable"))
    async with Watching(client, clock).running() as watching:
        await until(lambda: watching.unreadable.keys() == {"a"})
        await server.stop()
        server.remove("v1", "nodes", "a")
        server.store.forget_history()
        await server.start()
        await until(lambda: not watching.unreadable)


async def test_what_can_be_told_of_an_unreadable_object_stands_for_it(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    server.put("v1", "nodes", node("a"))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("a", "partly"))
        await until(lambda: watching.seen == {"a": "something"})
        assert watching.unreadable == {"a": "the rest"}


async def test_a_mistake_in_the_callback_is_a_problem_of_one_object(
    server: FakeApiServer, client: kube.Client, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Watching(client, clock, mistaken_about="bad").running() as watching:
        await watching.reflector.wait_synced()
        server.put("v1", "nodes", node("bad"))
        server.put("v1", "nodes", node("good"))
        await until(lambda: "good" in watching.seen)
        assert watching.unreadable == {"bad": "KeyError('mine')"}
    assert [name for name, _, _ in watching.changes] == ["good"]
    assert "KeyError: 'mine'" in caplog.text


async def test_events_that_make_no_sense_lead_to_a_new_list(
    server: FakeApiServer, client: kube.Client, clock: FakeClock
) -> None:
    async def send_nonsense(request: web.Request) -> web.StreamResponse | None:
        if request.query.get("resourceVersion") != held:
            return None
        response = await failures._open(request)
        await api_server.send(response, "RENAMED", node("a"))
        return response

    server.put("v1", "nodes", node("a"))
    async with Watching(client, clock).running() as watching:
        await until(lambda: "watch" in server.verbs())
        held = str(server.store.version)
        server.failure = send_nonsense
        await server.end_watches()
        server.put("v1", "nodes", node("b"))
        await until(lambda: "b" in watching.seen)
    assert server.verbs()[:6] == ["list", "watch", "watch", "watch", "watch", "list"]


async def test_a_list_that_is_too_large_for_one_answer_comes_in_smaller_pages(
    server: FakeApiServer, client: kube.Client, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "MOST_BYTES", 100_000)
    monkeypatch.setattr(kube_client, "PAGE_SIZE", 64)
    for number in range(40):
        size = 90_000 if number % 10 == 0 else 10
        server.put("v1", "nodes", node(f"node-{number}", note="x" * size))
    async with Watching(client, clock).running() as watching:
        await watching.reflector.wait_synced()
    assert len(watching.seen) == 40
    assert clock.sleeps == []


async def test_the_age_of_what_is_known_grows_while_the_server_is_away(
    server: FakeApiServer, client: kube.Client
) -> None:
    clock = FakeClock()
    async with Watching(client, clock).running() as watching:
        await until(lambda: "watch" in server.verbs())
        await until(lambda: watching.reflector.synced)
        await server.stop()
        await clock.advance(100)
        assert watching.reflector.age_s == 100
        await server.start()
        await clock.advance(30)
        server.put("v1", "nodes", node("a"))
        await until(lambda: watching.seen == {"a": "1"})
        assert watching.reflector.age_s == 0


async def test_a_server_that_is_away_is_no_reason_to_start_again(
    server: FakeApiServer, client: kube.Client
) -> None:
    clock = FakeClock()
    async with Watching(client, clock).running() as watching:
        await until(lambda: watching.reflector.synced)
        await server.stop()
        for _ in range(30):
            before = len(clock.sleeps)
            await clock.advance(30)
            await until(has_slept(clock, before + 1))
            assert watching.beats.late() == ""
        await server.start()
