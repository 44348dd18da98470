"""Uses `som_api.kube` from inside the cluster's network; one command per process.

`python -m cluster.speaker contract CHECK | follow LABEL | publish POOL | events NODE`, with
KUBECONFIG set. Fails with a traceback, else says on stdout what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import sys
from collections.abc import AsyncIterator

from fakes import api_server_contract
from som_api import kube, v1alpha1


async def contract(client: kube.Client, name: str) -> None:
    """Run one check of the contract that the fake API server keeps, too."""
    (check,) = [check for check in api_server_contract.CHECKS if check.__name__ == name]
    await check(client)


async def follow(client: kube.Client, label: str) -> None:
    """Print [name, old, new] for every change of the value of `label` on a Node, for ever."""

    def decode(item: kube.Json) -> str:
        value: str = item["metadata"].get("labels", {}).get(label, "")
        return value

    def tell(key: kube.Key, old: str | None, new: str | None) -> None:
        print(json.dumps([key.name, old, new]), flush=True)

    await kube.Reflector(
        client, kube.NODES, decode=decode, on_change=tell, label_selector=label
    ).run()


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
            print(json.dumps(written), flush=True)


async def events(client: kube.Client, node: str) -> None:
    """Put one Event on a Node, and another one with many messages."""
    async with _recorder(client, about=node, expected=12) as recorder:
        target = kube.node_ref(node)
        recorder.emit(target, reason="LeaseDamaged", message="a lease was cut", warning=True)
        for number in range(12):
            recorder.emit(target, reason="LeaseHeld", message=f"pid {number} holds memory")


@contextlib.asynccontextmanager
async def _recorder(
    client: kube.Client, *, about: str, expected: int
) -> AsyncIterator[kube.Recorder]:
    """A recorder; at the end waits until the server has `expected` Events about an object."""
    recorder = kube.Recorder(client, component="som-test", instance="speaker")
    selector = f"involvedObject.name={about},source=som-test"
    task = asyncio.create_task(recorder.run())
    yield recorder
    async with asyncio.timeout(20):
        while True:
            found = await client.get(kube.EVENTS.path(), params={"fieldSelector": selector})
            if len(found["items"]) >= expected:
                break
            await asyncio.sleep(0.1)
    task.cancel()


async def _main(command: str, argument: str) -> None:
    commands = {"contract": contract, "follow": follow, "publish": publish, "events": events}
    async with await kube.connect(user_agent="som-test/1") as client:
        await commands[command](client, argument)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
