"""Uses `som_api.kube` from inside the cluster's network; one command per process.

`python -m cluster.speaker contract CHECK | follow LABEL | pods NODE | publish POOL |
events NODE | report NODE`, with KUBECONFIG set. Fails with a traceback, else says on stdout what
happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

from fakes import api_server_contract
from som_api import kube, v1alpha1
from som_device_plugin import cluster
from som_device_plugin.cluster.pods import NodePods


async def contract(client: kube.Client, name: str) -> None:
    """Run one check of the contract that the fake API server keeps, too."""
    (check,) = [check for check in api_server_contract.CHECKS if check.__name__ == name]
    await check(client)


async def follow(client: kube.Client, label: str) -> None:
    """Print [name, old, new] for every change of the value of `label` on a Node, for ever."""

    def decode(item: kube.Json) -> str | None:
        value: str | None = item["metadata"].get("labels", {}).get(label)
        return value

    def tell(key: kube.Key, old: str | None, new: str | None) -> None:
        print(json.dumps([key.name, old, new]), flush=True)

    await kube.Reflector(client, kube.NODES, decode=decode, on_change=tell).run()


async def pods(client: kube.Client, node: str) -> None:
    """Print the names of the node's pods, as its agent knows them, at every change, for ever."""
    known = NodePods(client, node_name=node)
    printed = None
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(known.watch.run())
        while True:
            if known.synced and (names := sorted(pod.name for pod in known.pods())) != printed:
                print(json.dumps(names), flush=True)
                printed = names
            await asyncio.sleep(0.05)


async def publish(client: kube.Client, pool: str) -> None:
    """Publish a status twice, then another one, and print whether each took a request."""
    async with _recorder(client, about=pool, expected=1) as recorder:
        for ready in ("False", "False", "True"):
            item = await client.get(kube.SOMPOOLS.path(name=pool))
            condition = v1alpha1.Condition(
                type="Ready", status=ready, reason="Reserved" if ready == "True" else "Reserving"
            )
            written = await kube.publish(
                client,
                recorder,
                kube.ObjectRef(kube.SOMPOOLS, pool, uid=item["metadata"]["uid"]),
                current=v1alpha1.SomPoolStatus.model_validate(item.get("status", {})),
                wanted=v1alpha1.SomPoolStatus(conditions=(condition,), capacity=2**30),
                field_manager="som-test",
                now=datetime.datetime.now(datetime.UTC),
            )
            print(json.dumps(written != ""), flush=True)


async def events(client: kube.Client, node: str) -> None:
    """Put one Event on a Node, and another one with many messages."""
    async with _recorder(client, about=node, expected=12) as recorder:
        target = kube.node_ref(node)
        recorder.emit(target, reason="LeaseDamaged", message="a lease was cut", warning=True)
        for number in range(12):
            recorder.emit(target, reason="LeaseHeld", message=f"pid {number} holds memory")


async def report(client: kube.Client, node: str) -> None:
    """Report, as the agent of a node that has what its first order asks for."""
    async with cluster.outside(node_name=node) as outside:
        generation, spec = await anext(outside.specs.specs())
        (order,) = spec.pools
        ready = v1alpha1.Condition(type="Ready", status="True", reason="Reserved")
        facts = order.model_dump(include={"name", "generation", "unit", "capacity"})
        pool = v1alpha1.PoolStatus(**facts, allocated=0, free=order.capacity, conditions=(ready,))
        status = v1alpha1.SomNodeStatus(
            observed_generation=generation, boot_id="abc", pools=(pool,), conditions=(ready,)
        )
        await outside.reporter.report(status)
        path = kube.SOMNODES.path(name=node)

        async def is_there() -> bool:
            return "pools" in (await client.get(path)).get("status", {})

        await _until(is_there)


@contextlib.asynccontextmanager
async def _recorder(
    client: kube.Client, *, about: str, expected: int
) -> AsyncIterator[kube.Recorder]:
    """A recorder; at the end waits until the server has `expected` Events about an object."""
    recorder = kube.Recorder(client, component="som-test", instance="speaker")
    selector = f"involvedObject.name={about},source=som-test"

    async def are_there() -> bool:
        found = await client.get(kube.EVENTS.path(), params={"fieldSelector": selector})
        return len(found["items"]) >= expected

    task = asyncio.create_task(recorder.run())
    yield recorder
    await _until(are_there)
    task.cancel()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def _main(command: str, argument: str) -> None:
    (chosen,) = (each for each in COMMANDS if each.__name__ == command)
    async with await kube.connect(user_agent="som-test/1") as client:
        await chosen(client, argument)


COMMANDS = (contract, follow, pods, publish, events, report)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
