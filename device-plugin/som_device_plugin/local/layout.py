"""What is where in the state directory of local mode."""

import dataclasses
import os
from pathlib import Path
from typing import Final

DEFAULT: Final = Path("/var/lib/som")
AGENT_POD: Final = ("som-system", "som-agent")
"""Namespace and name under which the stand-in lists the agent, as a DaemonSet's pod would be."""


@dataclasses.dataclass(frozen=True)
class StateDir:
    """`path` belongs to root, mode 0700; short, for a socket's path has at most 107 bytes."""

    path: Path

    @property
    def orders(self) -> Path:
        """The SomNode of this machine as `som local up` ordered it."""
        return self.path / "somnode.json"

    @property
    def status(self) -> Path:
        """The SomNodeStatus that the agent reported last."""
        return self.path / "status.json"

    @property
    def pods(self) -> Path:
        """A PodList: the programs that run now. Written by the stand-in only."""
        return self.path / "pods.json"

    @property
    def lock(self) -> Path:
        """Held by the one `up` or `down` that works."""
        return self.path / "local.lock"

    @property
    def kubelet(self) -> Path:
        """What /var/lib/kubelet is on a node."""
        return self.path / "kubelet"

    @property
    def device_plugins(self) -> Path:
        return self.kubelet / "device-plugins"

    @property
    def registration_socket(self) -> Path:
        return self.device_plugins / "kubelet.sock"

    @property
    def pod_resources_socket(self) -> Path:
        return self.kubelet / "pod-resources" / "kubelet.sock"

    @property
    def control_socket(self) -> Path:
        """Where `som local run` asks for a start."""
        return self.kubelet / "control.sock"

    @property
    def agent_endpoint(self) -> Path:
        return self.path / "agent.sock"


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
