"""`som-operator`: turns SomPools into SomNodes and node capacity, for a whole cluster."""

import argparse
import asyncio
import contextlib
import logging
import os
import pathlib
import signal
import socket
import sys
from collections.abc import Sequence

import prometheus_client
from prometheus_client import registry

from som_api import VERSION, SomError, endpoint, kube, logs, reasons
from som_api.run import clock, heartbeats
from som_operator import uninstall
from som_operator.controllers import Controllers
from som_operator.loading.driver import Driver, read_template

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line of som-operator."""
    result = argparse.ArgumentParser(
        prog="som-operator",
        description="Turns SomPools into orders for every node and keeps their status. "
        "Runs once per cluster.",
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
    result.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
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
                driver=Driver(client, template, clock.SystemClock()) if template else None,
            ).run()
        return
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
        recorder = kube.Recorder(
            client, component="som-operator", instance=socket.gethostname(), time=time
        )
        controllers = Controllers(
            client,
            recorder,
            agent_namespace=arguments.namespace,
            collected=collected,
            driver=Driver(client, template, time) if template else None,
            beats=beats,
            time=time,
        )
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
            tasks.create_task(recorder.run())
            tasks.create_task(controllers.fleet.run())
            tasks.create_task(controllers.run())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exit 0 when told to stop, 1 on failure, 2 for wrong arguments.

    An uninstall that is told to stop has failed, with the shell's number for SIGTERM: a Job can
    tell it from a refusal, which another try would not change.
    """
    arguments = parser().parse_args(argv)
    logs.configure(level=arguments.log_level)
    try:
        asyncio.run(_run(arguments))
    except asyncio.CancelledError:
        _log.info("told to stop")
        if arguments.command == "uninstall":
            sys.exit(128 + signal.SIGTERM)
    except (SomError, BaseExceptionGroup) as failure:
        sys.exit("\n".join(f"som-operator: {error}" for error in reasons(failure)))
