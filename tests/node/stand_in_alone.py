"""The kubelet stand-in of a state directory without its agent: a test starts and kills its own."""

import asyncio

from som_device_plugin.local.stand_in import agent_pod, kubelet


async def nothing(pod: agent_pod.AgentPod) -> None:
    await asyncio.Event().wait()


def main() -> None:
    """`stand_in_alone.py DIR`."""
    setattr(agent_pod.AgentPod, "run", nothing)  # noqa: B010
    kubelet.main()


if __name__ == "__main__":
    main()
