"""The agent of local mode: the node's agent, with files for its neighbours."""

import argparse
import ctypes
import os
import signal
from pathlib import Path
from typing import Final

from som_api import SomError
from som_device_plugin import agent, process
from som_device_plugin.kubelet import setup
from som_device_plugin.local import layout, outside
from som_device_plugin.sources.hugetlb import plan

_PR_SET_PDEATHSIG: Final = 1


async def _run(state_dir: layout.StateDir, parent: int) -> None:
    _end_with(parent)
    settings = agent.Settings(
        state_dir=state_dir.path,
        kubelet=setup.Directories(plugins=state_dir.device_plugins, root=state_dir.kubelet),
        endpoint=f"unix:{state_dir.agent_endpoint}",
        own_pod="/".join(layout.AGENT_POD),
        guard=plan.Guard(),
        cdi_dir=state_dir.cdi,
    )
    await agent.Agent(settings, outside.files(state_dir)).run()


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (PR_SET_PDEATHSIG of prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        raise SomError("the kubelet stand-in that started this agent has ended")


def main() -> None:
    """`python -m som_device_plugin.local.agent DIR PARENT`, started by the kubelet stand-in."""
    parser = argparse.ArgumentParser(description="The node's agent, without Kubernetes.")
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("parent", type=int, help="the process with which it ends")
    given = parser.parse_args()
    process.main("som-agent", lambda: _run(layout.StateDir(given.state_dir), given.parent))


if __name__ == "__main__":
    main()
