"""What is where in the state directory of local mode."""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from som_device_plugin.local import Wrong

DEFAULT: Final = Path("/var/lib/som")
AGENT_POD: Final = ("som-system", "som-agent")
"""Namespace and name under which the stand-in lists the agent, as a DaemonSet's pod would be."""

_MOST_LINKS: Final = 40
"""What the kernel follows in one path, path_resolution(7)."""


class StateDir:
    """`path` belongs to root, mode 0700; short, because a socket's path has at most 107 bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # What `som local up` ordered, a SomNode; what the agent reported last, a SomNodeStatus; the
        # programs that run, a PodList that the stand-in alone writes.
        self.orders = path / "somnode.json"
        self.status = path / "status.json"
        self.pods = path / "pods.json"
        # Held by the one `up` or `down` that works; by the stand-in while it lives (see `locks`);
        # by the agent while it works, as on a node.
        self.lock = path / "local.lock"
        self.stand_in_lock = path / "kubelet.lock"
        self.agent_lock = path / "agent.lock"
        self.stand_in_log = path / "kubelet.log"
        self.agent_log = path / "agent.log"
        self.agent_endpoint = path / "agent.sock"
        # What /var/run/cdi is on a node.
        self.cdi = path / "cdi"
        # What /var/lib/kubelet is on a node. `som local run` asks for a start at the last socket.
        self.kubelet = path / "kubelet"
        self.device_plugins = self.kubelet / "device-plugins"
        self.registration_socket = self.device_plugins / "kubelet.sock"
        self.pod_resources_socket = self.kubelet / "pod-resources" / "kubelet.sock"
        self.control_socket = self.kubelet / "control.sock"

    def sockets_exist(self) -> bool:
        """Whether nobody has removed one that the stand-in serves."""
        sockets = (self.registration_socket, self.pod_resources_socket, self.control_socket)
        return all(socket.exists() for socket in sockets)


def find(path: Path) -> StateDir:
    """The state directory at `path`, links followed. It may be missing; its parent may not.

    Whoever could replace it, or a directory or link on the way, could answer in place of the
    stand-in and have root write where he likes.

    Raises:
        Wrong: another user could; or it is no directory, or its parent is missing.
        PermissionError: this user may not look.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise Wrong(f"--state-dir {path!a} is not UTF-8; choose another name") from None
    found, ahead, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    _check(found, found.lstat(), is_last=False)
    while ahead:
        name = ahead.pop()
        if name == "..":
            found = found.parent
            continue
        each = found / name
        try:
            status = each.lstat()
        except FileNotFoundError:
            if ahead:
                raise Wrong(f"--state-dir {path}: {each} does not exist; make it first") from None
            return StateDir(each)
        _check(each, status, is_last=not ahead)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise Wrong(f"--state-dir {path}: {each} is one of too many symbolic links")
            target = each.readlink()
            ahead += reversed(target.parts[target.is_absolute() :])
            found = Path("/") if target.is_absolute() else found
        else:
            found = each
    return StateDir(found)


def _check(path: Path, status: os.stat_result, *, is_last: bool) -> None:
    """Raises Wrong unless `path`, on the way to a state directory, is root's alone."""
    mode = status.st_mode
    cure = "choose a --state-dir that root alone can write, such as a new one in /var/lib"
    if status.st_uid != 0 and path == Path("/"):
        raise Wrong("this is a user namespace; run som local as root of the machine itself")
    if status.st_uid != 0:
        raise Wrong(
            f"{path} belongs to uid {status.st_uid}, not to root, so that user could have root "
            f"run or overwrite anything; {cure}"
        )
    if stat.S_ISLNK(mode):
        return
    if not stat.S_ISDIR(mode):
        raise Wrong(f"{path} is no directory; {cure}")
    # In a sticky directory such as /tmp nobody else can rename or remove what is root's.
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and (is_last or not mode & stat.S_ISVTX):
        raise Wrong(
            f"others than root can write to {path} (mode {stat.S_IMODE(mode):04o}); run "
            f"`chmod go-w {path}`, or {cure}"
        )


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old content or the new one, never a part. One process writes `path`."""
    temporary = temporary_of(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def temporary_of(path: Path) -> Path:
    """Where `write_atomically` writes first: what a process that was killed leaves."""
    return path.with_name(f".{path.name}.new")
