"""The agent of local mode: the node's agent, with files for its neighbours."""

import argparse
from pathlib import Path

from som_device_plugin import agent, process
from som_device_plugin.kubelet import setup
from som_device_plugin.local import layout, outside
from som_device_plugin.sources.hugetlb import plan


async def _run(state_dir: layout.StateDir) -> None:
    settings = agent.Settings(
        state_dir=state_dir.path,
        kubelet=setup.Directories(plugins=state_dir.device_plugins, root=state_dir.kubelet),
        endpoint=f"unix:{state_dir.agent_endpoint}",
        own_pod="/".join(layout.AGENT_POD),
        guard=plan.Guard(),
    )
    await agent.Agent(settings, outside.files(state_dir)).run()


def main() -> None:
    """`python -m som_device_plugin.local.agent DIR`, started by `som local up`."""
    parser = argparse.ArgumentParser(description="The node's agent, without Kubernetes.")
    parser.add_argument("state_dir", type=Path)
    state_dir = layout.StateDir(parser.parse_args().state_dir)
    process.main("som-agent", lambda: _run(state_dir))


if __name__ == "__main__":
    main()
