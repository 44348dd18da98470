"""`som-operator`: turns SomPools into SomNodes and node capacity, for a whole cluster."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import pathlib
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from typing import Final

import prometheus_client
from prometheus_client import registry

from som_api import VERSION, SomError, endpoint, kube, logs, reasons
from som_api.run import clock, heartbeats
from som_operator import metrics, uninstall
from som_operator.certificates import Minter
from som_operator.controllers import Controllers
from som_operator.face import Face
from som_operator.loading.driver import Driver, read_template

LEASE = "som-operator"
"""The name of the Lease by which replicas elect their leader."""

NEW_OBJECTS: Final = 10_000
"""How many, of containers, make Python look for reference cycles among them.

The caches of a large fleet are a million objects without cycles. While they are filled, and each
time that reports have replaced a quarter of them, Python looks through all of them: with its 700,
half a second of silence each time, and a sixth of the CPU time in steady state.
"""

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line of som-operator."""
    result = argparse.ArgumentParser(
        prog="som-operator",
        description="Turns SomPools into orders for every node and keeps their status. "
        "Of several in a cluster one works, and the others stand by.",
    )
    result.add_argument(
        "--kubeconfig",
        type=pathlib.Path,
        help="how to reach the API server (default: the pod's service account, else as kubectl)",
    )
    result.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", "som-system"),
        help="where the agents run (default: $POD_NAMESPACE, else som-system)",
    )
    result.add_argument(
        "--driver-pod",
        type=pathlib.Path,
        metavar="FILE",
        help="the pod that loads som.ko on a node, as YAML (default: something else loads it)",
    )
    result.add_argument(
        "--endpoint",
        default=":8080",
        help="HOST:PORT of /healthz, /readyz and /metrics (default: %(default)s)",
    )
    logs.add_options(result)
    result.add_argument(
        "--api",
        default="",
        metavar="HOST:PORT",
        help="serve fleet API and page there over HTTPS, such as :8443 (default: nowhere)",
    )
    result.add_argument("--version", action="version", version=f"som-operator {VERSION}")
    commands = result.add_subparsers(dest="command", title="instead of running")
    leaving = commands.add_parser(
        "uninstall", help="give all som memory back, before the release is deleted"
    )
    leaving.add_argument(
        "--timeout",
        type=float,
        default=240,
        dest="timeout_s",
        metavar="SECONDS",
        help="how long to wait for operator and nodes (default: %(default)s)",
    )
    leaving.add_argument(
        "--release",
        default="",
        help="do nothing unless helm uninstalls this release (default: you want it)",
    )
    leaving.add_argument(
        "--replicas",
        type=int,
        default=2,
        metavar="N",
        help="how many operators to start again if memory stays (default: %(default)s)",
    )
    return result


async def _run(arguments: argparse.Namespace) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    template = read_template(arguments.driver_pod) if arguments.driver_pod else None
    if arguments.command == "uninstall":
        async with await kube.connect(
            user_agent=f"som-uninstall/{VERSION}", kubeconfig=arguments.kubeconfig
        ) as client:
            await uninstall.Uninstall(
                client,
                namespace=arguments.namespace,
                timeout_s=arguments.timeout_s,
                release=arguments.release,
                replicas=arguments.replicas,
                driver=Driver(client, template, clock.SystemClock()) if template else None,
            ).run()
        return
    gc.set_threshold(NEW_OBJECTS)
    time = clock.SystemClock()
    beats = heartbeats.Heartbeats()
    collected = registry.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=collected)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            await kube.connect(
                user_agent=f"som-operator/{VERSION}", kubeconfig=arguments.kubeconfig
            )
        )
        election = kube.Election(
            client,
            namespace=arguments.namespace,
            name=LEASE,
            identity=f"{socket.gethostname()}_{uuid.uuid4()}",
            time=time,
            beats=beats,
        )
        fenced = client.fenced(election.fence)
        recorder = kube.Recorder(
            fenced, component="som-operator", instance=socket.gethostname(), time=time
        )
        controllers = Controllers(
            fenced,
            recorder,
            agent_namespace=arguments.namespace,
            collected=collected,
            driver=Driver(fenced, template, time) if template else None,
            beats=beats,
            time=time,
        )
        collected.register(metrics.ElectionCollector(election))

        minter = Minter(fenced, namespace=arguments.namespace, time=time)
        face = Face(client, controllers.fleet, namespace=arguments.namespace, time=time)
        collected.register(metrics.AnswersCollector(face.answers))

        async def lead() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(recorder.run())
                tasks.create_task(controllers.run())
                if arguments.api:
                    tasks.create_task(minter.run())

        await stack.enter_async_context(
            endpoint.serve(
                address=arguments.endpoint,
                not_ready=lambda: (
                    "" if controllers.fleet.synced else "the caches are not complete yet"
                ),
                unhealthy=beats.late,
                collected=collected,
            )
        )
        _log.info(
            "som-operator works",
            extra={"version": VERSION, "agent_namespace": arguments.namespace},
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(controllers.fleet.run())
            if arguments.api:
                tasks.create_task(face.run(address=arguments.api))
            # Who cannot work yet does not lead.
            await controllers.fleet.wait_synced()
            # What is there now stays: it is not looked through again.
            gc.freeze()
            tasks.create_task(election.run(lead))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exit 0 when told to stop, 1 on failure, 2 for wrong arguments.

    An uninstall that is told to stop has failed, with the shell's number for SIGTERM: a Job can
    tell it from a refusal, which another try would not change.
    """
    arguments = parser().parse_args(argv)
    logs.configure(level=arguments.log_level, format=arguments.log_format)
    try:
        asyncio.run(_run(arguments))
    except asyncio.CancelledError:
        _log.info("told to stop")
        if arguments.command == "uninstall":
            sys.exit(128 + signal.SIGTERM)
    except (SomError, BaseExceptionGroup) as failure:
        problems = (str(error) for error in reasons(failure))
        logs.fail("som-operator", problems, format=arguments.log_format)
