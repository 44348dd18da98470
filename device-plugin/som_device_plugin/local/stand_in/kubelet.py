"""A stand-in for kubelet, scheduler and admission on a machine without Kubernetes.

It speaks the real protocol with the agent over real sockets, and does what a cluster does: count
units, choose a ticket through GetPreferredAllocation, Allocate at admission, PreStartContainer
before the start with 30 s of patience and again until it succeeds, list PodResources, look CDI
devices up as a runtime does, and run the agent as a node runs its pod. A program is a pod of one
container that lives as long as the connection of its `som local run`; what it leaves behind is
ended.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from som_api import SomError
from som_device_plugin import process
from som_device_plugin.kubelet import (
    deviceplugin_pb2,
    deviceplugin_pb2_grpc,
    plugin,
    podresources_pb2,
    podresources_pb2_grpc,
    setup,
)
from som_device_plugin.linux import cgroups, mountinfo
from som_device_plugin.local import layout, locks, orders, programs, units
from som_device_plugin.local.stand_in import agent_pod, limits, runtime, tickets

PRE_START_RETRY_S: Final = 1.0
"""Kubelet waits about 10 s; here a person waits."""

TICKET_PATIENCE_S: Final = 30.0
LOOK_EVERY_S: Final = 0.2
WRITE_RETRY_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Admitted:
    pod: programs.Program
    device: str
    allocate_s: float


class StandIn(
    deviceplugin_pb2_grpc.RegistrationServicer, podresources_pb2_grpc.PodResourcesListerServicer
):
    """Serves the sockets of `state_dir`; `run` returns only by cancellation."""

    def __init__(self, state_dir: layout.StateDir, hierarchy: cgroups.Hierarchy) -> None:
        self._state_dir = state_dir
        self._agent = agent_pod.AgentPod(state_dir)
        self._limits = limits.PodLimits(state_dir, hierarchy)
        self._pods = {pod.uid: pod for pod in programs.read(state_dir)}
        self._plugin: tickets.Plugin | None = None
        self._admission = asyncio.Lock()
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._programs_changed = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Sweep old sockets as kubelet does, serve, and end the pods of an earlier stand-in."""
        self._state_dir.device_plugins.mkdir(parents=True, exist_ok=True)
        self._state_dir.pod_resources_socket.parent.mkdir(parents=True, exist_ok=True)
        for socket in self._state_dir.kubelet.rglob("*.sock"):
            socket.unlink()
        self._programs_changed.set()
        # As kubelet does: an agent that cannot tell the policy reserves nothing.
        policy = json.dumps({"policyName": "None"})
        layout.write_atomically(self._state_dir.kubelet / setup.STATE_FILE, policy)
        server = grpc.aio.server(options=plugin.RECEIVE_UNLIMITED)
        deviceplugin_pb2_grpc.add_RegistrationServicer_to_server(self, server)
        podresources_pb2_grpc.add_PodResourcesListerServicer_to_server(self, server)
        server.add_insecure_port(f"unix://{self._state_dir.registration_socket}")
        server.add_insecure_port(f"unix://{self._state_dir.pod_resources_socket}")
        async with self._group:
            self._group.create_task(self._keep_programs())
            for pod in self._pods.values():
                self._group.create_task(self._outlive(pod))
            await server.start()
            control = await asyncio.start_unix_server(
                self._serve_program, self._state_dir.control_socket
            )
            try:
                await self._agent.run()
            finally:
                control.close()
                await server.stop(None)

    # What the agent calls

    async def Register(
        self, request: deviceplugin_pb2.RegisterRequest, context: grpc.aio.ServicerContext
    ) -> deviceplugin_pb2.Empty:
        """Dial the plugin back, then follow its list."""
        if Path(request.endpoint).name != request.endpoint:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "endpoint is no file name")
        registered = tickets.Plugin(self._state_dir.device_plugins / request.endpoint)
        if not await registered.has_options():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "som's options are missing")
        self._plugin = registered
        self._group.create_task(registered.follow())
        _log.info("%s registered as %s", request.resource_name, request.endpoint)
        return deviceplugin_pb2.Empty()

    async def List(
        self, request: podresources_pb2.ListPodResourcesRequest, context: grpc.aio.ServicerContext
    ) -> podresources_pb2.ListPodResourcesResponse:
        """The running pods, and the agent's own as a DaemonSet's would be."""
        namespace, name = layout.AGENT_POD
        answer = podresources_pb2.ListPodResourcesResponse()
        answer.pod_resources.add(namespace=namespace, name=name)
        for pod in self._pods.values():
            listed = answer.pod_resources.add(namespace=programs.NAMESPACE, name=pod.name)
            if pod.ticket:
                listed.containers.add(name=programs.CONTAINER).devices.add(
                    resource_name="som.io/ticket", device_ids=[pod.ticket]
                )
        return answer

    # What `som local run` and `down` ask for

    async def _serve_program(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection: one program, from its request until the connection ends."""
        try:
            order = json.loads(await reader.readline() or "{}")
            if order.get("end") == "all":
                await self._end_all()
            elif "agent" in order:
                if order["agent"] == "start":
                    self._agent.start_now()
                _tell(writer, pid=self._agent.pid, ended=self._agent.ended)
            elif order:
                await self._live(order, reader, writer)
        except ConnectionError:
            pass
        except (SomError, OSError, KeyError, ValueError) as error:
            _log.warning("refused: %s", error)
            _tell(writer, event="refused", message=str(error))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _live(
        self, order: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = units.Request.parse(order["resource"], order["count"])
        admitted = await self._admit(programs.Program.new(order["program"], asked))
        pod = admitted.pod
        start = asyncio.create_task(self._start(admitted, writer))
        hung_up = asyncio.create_task(reader.read())
        self._starts[pod.uid] = start
        try:
            # Cancelled here, the stand-in ends and the program goes on, as with a kubelet.
            await asyncio.wait([start, hung_up], return_when=asyncio.FIRST_COMPLETED)
            if start.done() and not start.cancelled() and not start.exception():
                await asyncio.wait([hung_up])
            ended_by_itself = hung_up.done()
        finally:
            start.cancel()
            hung_up.cancel()
            await asyncio.gather(start, hung_up, return_exceptions=True)
            del self._starts[pod.uid]
        await self._end(pod)
        if start.cancelled() and not ended_by_itself:
            raise programs.Refused(f"{pod.name} was ended by `som local down --force`")
        if not ended_by_itself:
            start.result()

    async def _admit(self, pod: programs.Program) -> _Admitted:
        """Count, choose a ticket, Allocate: one program at a time, as kubelet admits pods."""
        async with self._admission:
            status = orders.read_status(self._state_dir)
            programs.admit(pod.request, pods=list(self._pods.values()), status=status)
            while True:
                agent, free = await self._free_tickets()
                begun = time.monotonic()
                try:
                    ticket, device = await agent.allocate(free)
                    break
                except tickets.Away:
                    agent.healthy = frozenset()
            allocate_s = time.monotonic() - begun
            pod = dataclasses.replace(pod, ticket=ticket)
            self._enter(pod)
        _log.info("admitted %s with ticket %s", pod.name, pod.ticket)
        return _Admitted(pod, device, allocate_s)

    def _enter(self, pod: programs.Program) -> None:
        """The program is written down before it starts, or refused."""
        self._limits.create(pod)
        self._pods[pod.uid] = pod
        try:
            self._write_programs()
        except OSError as error:
            del self._pods[pod.uid]
            self._limits.remove(pod)
            raise programs.Refused(
                f"writing {self._state_dir.pods}: {error.strerror}; see that its disk has free "
                "space and is writable"
            ) from error

    async def _free_tickets(self) -> tuple[tickets.Plugin, list[str]]:
        used = {pod.ticket for pod in self._pods.values()}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICKET_PATIENCE_S):
                while True:
                    if self._plugin and (free := self._plugin.healthy - used):
                        return self._plugin, sorted(free)
                    await asyncio.sleep(LOOK_EVERY_S)
        raise programs.Refused(
            "no ticket is free: the agent has not registered, or every ticket is in use; see "
            f"{self._state_dir.agent_log}"
        )

    async def _start(self, admitted: _Admitted, writer: asyncio.StreamWriter) -> None:
        """PreStartContainer until it succeeds, then tell the program's `run` to go."""
        pod, begun = admitted.pod, time.monotonic()
        _tell(writer, event="admitted", pod=pod.name, allocate_s=admitted.allocate_s)
        while isinstance(edits := await self._try_to_start(admitted), str):
            _tell(writer, event="waiting", message=edits)
            await asyncio.sleep(PRE_START_RETRY_S)
        _tell(
            writer,
            event="ready",
            pod=pod.name,
            allocate_s=admitted.allocate_s,
            pre_start_s=time.monotonic() - begun,
            cgroup=self._limits.joining(pod),
            edits=edits,
        )
        await writer.drain()

    async def _try_to_start(self, admitted: _Admitted) -> Mapping[str, Any] | str:
        """What the program's container gets, once it may start; else why it may not yet."""
        if self._plugin is None:
            return tickets.AWAY
        if refusal := await self._plugin.pre_start(admitted.pod.ticket):
            return refusal
        try:
            return runtime.container_edits(admitted.device, directory=self._state_dir.cdi)
        except runtime.Unresolvable as error:
            return str(error)

    async def _end(self, pod: programs.Program) -> None:
        """End what the program left running; only then is the pod gone."""
        while self._limits.occupied(pod):
            try:
                await asyncio.to_thread(self._limits.end_processes, pod)
            except cgroups.CgroupError as error:
                _log.warning("%s stays: %s", pod.name, error)
        try:
            self._limits.remove(pod)
        except cgroups.CgroupError as error:
            # It has no process, so the program has ended all the same; `down` removes it.
            _log.warning("a group of %s stays: %s", pod.name, error)
        self._pods.pop(pod.uid, None)
        # Written later where the disk is full now: the agent holds the memory until then.
        self._programs_changed.set()
        _log.info("%s has ended", pod.name)

    async def _outlive(self, pod: programs.Program) -> None:
        """A pod of the stand-in before this one: lives as long as its processes do."""
        while True:
            if not self._limits.occupied(pod):
                await self._end(pod)
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _end_all(self) -> None:
        for start in list(self._starts.values()):
            start.cancel()
        for pod in list(self._pods.values()):
            await asyncio.to_thread(self._limits.end_processes, pod)

    async def _keep_programs(self) -> None:
        """Write down that a program has ended, until it succeeds."""
        while True:
            await self._programs_changed.wait()
            try:
                self._write_programs()
            except OSError as error:
                _log.error("writing %s: %s; trying again", self._state_dir.pods, error)
                await asyncio.sleep(WRITE_RETRY_S)

    def _write_programs(self) -> None:
        programs.write(self._state_dir, list(self._pods.values()))
        self._programs_changed.clear()


def _tell(writer: asyncio.StreamWriter, **message: Any) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


async def _run(state_dir: layout.StateDir) -> None:
    # Never closed: who waits for the lock waits for the end of this process.
    if locks.take(state_dir.stand_in_lock) is None:
        raise SomError(f"another stand-in has {state_dir.path}, or it has been given back")
    await StandIn(state_dir, cgroups.find(mountinfo.read())).run()


def main() -> None:
    """`python -m som_device_plugin.local.stand_in.kubelet DIR`, started by `som local up`."""
    parser = argparse.ArgumentParser(description="Stand-in for kubelet of som's local mode.")
    parser.add_argument("state_dir", type=Path)
    state_dir = layout.StateDir(parser.parse_args().state_dir)
    process.main("som-kubelet", lambda: _run(state_dir))


if __name__ == "__main__":
    main()
