"""`som-agent`: serves som memory on one node."""

import argparse
import os
import pathlib

from som_api import VERSION, SomError, logs
from som_device_plugin import agent, cluster, libsom, loops, process
from som_device_plugin.kubelet import setup
from som_device_plugin.sources.hugetlb import plan


def parser() -> argparse.ArgumentParser:
    """The command line of som-agent."""
    result = argparse.ArgumentParser(
        prog="som-agent",
        description="Reserves som pools on this node and hands them out to containers. "
        "Runs as root, one per node; a second one waits for the first to end.",
    )
    result.add_argument(
        "--node-name",
        default=os.environ.get("NODE_NAME", ""),
        help="name of this Kubernetes node (default: $NODE_NAME)",
    )
    result.add_argument(
        "--pod",
        default="/".join(
            (os.environ.get("POD_NAMESPACE", ""), os.environ.get("POD_NAME", ""))
        ).strip("/"),
        metavar="NAMESPACE/NAME",
        help="the agent's own pod, as kubelet lists it (default: $POD_NAMESPACE/$POD_NAME)",
    )
    result.add_argument(
        "--kubeconfig",
        type=pathlib.Path,
        help="how to reach the API server (default: the pod's service account)",
    )
    result.add_argument(
        "--state-dir",
        type=pathlib.Path,
        default=pathlib.Path("/var/lib/som"),
        help="store and mounts (default: %(default)s)",
    )
    result.add_argument(
        "--kubelet-dir",
        type=pathlib.Path,
        default=pathlib.Path("/var/lib/kubelet"),
        help="where kubelet's device-plugins/ is (default: %(default)s)",
    )
    result.add_argument(
        "--kubelet-root-dir",
        type=pathlib.Path,
        help="kubelet's --root-dir, where pod-resources/ and memory_manager_state are "
        "(default: as --kubelet-dir)",
    )
    result.add_argument(
        "--endpoint",
        default=":9808",
        help="HOST:PORT or unix:PATH of /healthz, /readyz and /metrics (default: %(default)s)",
    )
    result.add_argument(
        "--tls-dir",
        type=pathlib.Path,
        metavar="DIRECTORY",
        help="where tls.crt, tls.key and ca.crt are, or will be: with them the agent tells the "
        "operator of leases on port 9443 (default: it tells nobody)",
    )
    result.add_argument(
        "--guard-percent",
        type=int,
        default=10,
        help="share of MemTotal that stays available for the node (default: %(default)s)",
    )
    logs.add_options(result)
    result.add_argument("--version", action="version", version=f"som-agent {VERSION}")
    return result


async def _run(arguments: argparse.Namespace) -> None:
    if not (arguments.node_name and arguments.pod):
        raise SomError("which node and pod is this? Give --node-name and --pod")
    settings = agent.Settings(
        state_dir=arguments.state_dir,
        kubelet=setup.Directories(
            plugins=arguments.kubelet_dir / "device-plugins",
            root=arguments.kubelet_root_dir or arguments.kubelet_dir,
        ),
        endpoint=arguments.endpoint,
        own_pod=arguments.pod,
        guard=plan.Guard(percent=arguments.guard_percent),
        tls_dir=arguments.tls_dir,
        libsom=libsom.IN_IMAGE,
    )
    neighbours = cluster.outside(
        node_name=arguments.node_name, kubeconfig=arguments.kubeconfig, beats=loops.BEATS
    )
    async with neighbours as outside:
        await agent.Agent(settings, outside).run()


def main() -> None:
    """Entry point: exit 0 when told to stop, 1 on failure, 2 for wrong arguments."""
    arguments = parser().parse_args()
    process.main(
        "som-agent",
        lambda: _run(arguments),
        log_level=arguments.log_level,
        log_format=arguments.log_format,
    )
