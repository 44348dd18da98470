"""What som relies on in an API server; every check runs against the fake and the real one.

Each check takes a client and makes Nodes of its own, named `contract-<something>`.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from som_api import kube
from som_api.kube import Json

Check = Callable[[kube.Client], Awaitable[None]]

LABEL = "som.io/contract"


@contextlib.asynccontextmanager
async def _nodes(client: kube.Client, *names: str) -> AsyncIterator[list[Json]]:
    created: list[Json] = []
    try:
        for name in names:
            metadata = {"name": f"contract-{name}", "labels": {LABEL: name.rstrip("0123456789")}}
            node: Json = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
            created.append(await client.create(kube.NODES.path(), node))
        yield created
    finally:
        for node in created:
            with contextlib.suppress(kube.KubeError):
                await client.delete(kube.NODES.path(name=node["metadata"]["name"]))


async def pages_of_a_list_add_up(client: kube.Client) -> None:
    async with _nodes(client, "page1", "page2", "page3"):
        params: dict[str, str | int] = {"labelSelector": f"{LABEL}=page", "limit": 2}
        first = await client.get(kube.NODES.path(), params=params)
        params["continue"] = first["metadata"]["continue"]
        second = await client.get(kube.NODES.path(), params=params)
    names = [item["metadata"]["name"] for page in (first, second) for item in page["items"]]
    assert names == ["contract-page1", "contract-page2", "contract-page3"]
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert not second["metadata"].get("continue")


async def a_watch_tells_what_happened_since_the_list(client: kube.Client) -> None:
    async with _nodes(client, "watched", "other"):
        listed = await client.get(kube.NODES.path(), params={"limit": 500})
        path = kube.NODES.path(name="contract-watched")
        await client.merge_patch(path, {"metadata": {"labels": {"a": "b"}}})
        await client.delete(kube.NODES.path(name="contract-other"))
        await client.delete(path)
        told = []
        version = listed["metadata"]["resourceVersion"]
        params = {"resourceVersion": version, "fieldSelector": "metadata.name=contract-watched"}
        async with client.watch(kube.NODES.path(), params=params, idle_timeout_s=10) as events:
            while (event := await anext(events))["type"] != "DELETED":
                metadata = event["object"]["metadata"]
                told.append((event["type"], metadata["name"], metadata["labels"].get("a")))
    # Controllers of a real cluster write to a new Node meanwhile.
    assert {each[:2] for each in told} == {("MODIFIED", "contract-watched")}
    assert told[-1][2] == "b"


async def a_watch_ends_after_its_time_with_a_bookmark(client: kube.Client) -> None:
    async with _nodes(client, "bookmark"):
        listed = await client.get(kube.NODES.path(), params={"limit": 500})
        version = listed["metadata"]["resourceVersion"]
        params = {"resourceVersion": version, "fieldSelector": "metadata.name=contract-nobody"}
        until = {"allowWatchBookmarks": True, "timeoutSeconds": 5}
        async with client.watch(
            kube.NODES.path(), params={**params, **until}, idle_timeout_s=30
        ) as events:
            kinds = {event["type"] async for event in events}
    assert kinds == {"BOOKMARK"}


async def a_watch_of_a_forgotten_version_is_gone(client: kube.Client) -> None:
    with pytest.raises(kube.KubeError) as caught:
        async with client.watch(
            kube.NODES.path(), params={"resourceVersion": "1"}, idle_timeout_s=10
        ) as events:
            await anext(events)
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


async def an_apply_owns_its_fields_and_no_others(client: kube.Client) -> None:
    async with _nodes(client, "applied"):
        path = kube.NODES.path(name="contract-applied", subresource="status")
        await client.apply(path, _with_conditions("First", "Second"), field_manager="one")
        await client.apply(path, _with_conditions("Third"), field_manager="two")
        node = await client.apply(path, _with_conditions("First"), field_manager="one")
        # Controllers of a real cluster have conditions of their own on a Node.
        ours = {"First", "Second", "Third"}
        found = {condition["type"] for condition in node["status"]["conditions"]}
        assert found & ours == {"First", "Third"}


async def an_apply_that_changes_nothing_has_no_version(client: kube.Client) -> None:
    async with _nodes(client, "same"):
        path = kube.NODES.path(name="contract-same", subresource="status")
        versions = []
        for _ in range(6):
            node = await client.apply(path, _with_conditions("First"), field_manager="one")
            versions.append(node["metadata"]["resourceVersion"])
    # Controllers of a real cluster write to a new Node meanwhile.
    assert len(set(versions)) < len(versions)


async def an_apply_keeps_every_character(client: kube.Client) -> None:
    async with _nodes(client, "text"):
        path = kube.NODES.path(name="contract-text", subresource="status")
        status = _with_conditions("First")
        status["status"]["conditions"][0]["message"] = text = "pool of \N{BOMB}, \N{SNOWMAN}, é"
        node = await client.apply(path, status, field_manager="one")
        assert text in {each.get("message") for each in node["status"]["conditions"]}


async def a_status_is_written_through_its_subresource(client: kube.Client) -> None:
    async with _nodes(client, "parts"):
        path = kube.NODES.path(name="contract-parts")
        capacity = {"capacity": {"som.io/2Mi": "5"}}
        by_main = await client.merge_patch(path, {"status": capacity, "spec": {"podCIDR": None}})
        assert "som.io/2Mi" not in by_main.get("status", {}).get("capacity", {})
        patch = {"status": capacity, "spec": {"unschedulable": True}}
        by_status = await client.merge_patch(f"{path}/status", patch)
        assert by_status["status"]["capacity"]["som.io/2Mi"] == "5"
        assert not by_status["spec"].get("unschedulable")


async def a_json_patch_is_all_or_nothing(client: kube.Client) -> None:
    async with _nodes(client, "jsonpatch"):
        path = kube.NODES.path(name="contract-jsonpatch")
        guard = {"op": "test", "path": "/metadata/labels/som.io~1contract", "value": "no"}
        mark = {"op": "add", "path": "/metadata/labels/mark", "value": "yes"}
        with pytest.raises(kube.KubeError) as caught:
            await client.json_patch(path, [guard, mark])
        assert (caught.value.status, caught.value.reason) == (409, "Conflict")
        nowhere = {"op": "test", "path": "/metadata/nothing/below", "value": None}
        with pytest.raises(kube.KubeError) as caught:
            await client.json_patch(path, [nowhere, mark])
        assert (caught.value.status, caught.value.reason) == (409, "Conflict")
        node = await client.json_patch(path, [{**guard, "value": "jsonpatch"}, mark])
    assert node["metadata"]["labels"]["mark"] == "yes"


async def errors_say_what_the_server_answered(client: kube.Client) -> None:
    async with _nodes(client, "taken") as (node,):
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "contract-taken"}}
        with pytest.raises(kube.KubeError, match="already exists") as caught:
            await client.create(kube.NODES.path(), body)
        assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    with pytest.raises(kube.KubeError, match="not found") as caught:
        await client.get(kube.NODES.path(name=node["metadata"]["name"]))
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")


def _with_conditions(*types: str) -> Json:
    conditions = [{"type": name, "status": "True", "reason": "Tested"} for name in types]
    return {"apiVersion": "v1", "kind": "Node", "status": {"conditions": conditions}}


CHECKS: list[Check] = list(filter(inspect.iscoroutinefunction, tuple(globals().values())))
"""Every coroutine of this module."""
