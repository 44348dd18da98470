"""The test cluster with a virtual machine as its node: a kernel of Debian, cgroup v2, NUMA.

The control plane runs in this machine's namespaces as ever, and QEMU beside it. The node can be
asked for things without kubelet: a shell in it reads the second serial port.
"""

from __future__ import annotations

import base64
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.harness import certificates, images, node
from cluster.harness.cluster import Cluster, T
from cluster.harness.errors import ClusterError, wait_until
from cluster.scenes import release
from driver import build
from guests import debian, guest
from som_api import VERSION
from vm.node import disks, memory

HERE = Path(__file__).parent
KERNEL = "6.12"
NODE = "/run/node"
"""Where all that is ours is on the node."""
ADDRESS, GATEWAY, PODS = "10.98.0.2", "10.98.0.1", "10.88.0.0/16"
OLDER_MODULE = f"{NODE}/som.ko"
"""som.ko as a release before this one would have it."""
OLDER_VERSION = "0.0.9"
PREBUILT = "prebuilt"
"""Tag of the driver's image with som.ko in it: to build it takes the emulated node minutes."""
KUBELET = """\
evictionHard: {memory.available: 0%, nodefs.available: 0%, imagefs.available: 0%}
localStorageCapacityIsolation: false
runtimeRequestTimeout: 10m"""
"""Nobody is evicted, so that nothing is measured for it; and a container's start may take long."""
FAST = "no5lvl norandmaps"
"""The emulator translates a program once, if it is always at the same addresses."""
SLOWNESS = 8
"""How many times longer than on this machine a thing may take in the emulated one."""


CABLE = f"""
ip tuntap add tap0 mode tap
ip address add {GATEWAY}/24 dev tap0
ip link set tap0 up
ip route add {PODS} via {ADDRESS}
"""


class VirtualCluster(Cluster):
    """A cluster whose node is a guest; it has the images of this tree from the start.

    It borrows nothing of this machine, so one may be up beside the other cluster.
    """

    _STATE = "virtual-state"
    _LOCK = Path("/run/lock/som-virtual-node.lock")
    _boots = 1

    @property
    def _console(self) -> Path:
        return self.namespaces.logs / "console.log"

    @property
    def _shell(self) -> Path:
        return self.namespaces.state / "shell"

    def _start_node(self) -> None:
        kernel = debian.kernel(KERNEL)
        archives = [
            images.build_static("pause", tag=images.PAUSE),
            images.build_static("workload", tag=images.WORKLOAD),
            *release.build(release.DRIVER),
            images.build_on(
                f"localhost/som-{release.DRIVER}:test",
                self._module(kernel, VERSION),
                at=f"/opt/som/modules/{kernel.release}/som.ko",
                tag=f"localhost/som-{release.DRIVER}:{PREBUILT}",
            ),
        ]
        drives = (disks.system(kernel), disks.containers(archives))
        hardware = guest.Machine(
            memory=memory.TOTAL,
            tsc="reliable",
            nodes=memory.NODES,
            append=f"{memory.APPEND} {FAST}",
            modules=("virtio_blk",),
            hardware=(
                *("-smp", "2,sockets=2,cores=1,threads=1"),
                *("-netdev", "tap,id=cable,ifname=tap0,script=no,downscript=no"),
                *("-device", "virtio-net-pci,netdev=cable,romfile=", "-device", "virtio-rng-pci"),
                *(
                    word
                    for disk in drives
                    for word in ("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe")
                ),
                "-snapshot",
            ),
        )
        initrd = self.namespaces.state / "initrd"
        initrd.write_bytes(guest.initramfs(kernel, self._files(kernel), hardware))
        ports = (f"file:{self._console}", f"unix:{self._shell},server=on,wait=off")
        self.namespaces.run(["sh", "-ec", CABLE])
        self.namespaces.start(
            "guest", ["nice", "-n", "10", *guest.emulator(kernel, hardware, initrd, ports)]
        )
        self._wait_up()

    def _borrow(self) -> None:
        """See `Cluster`: nothing."""

    def _give_back(self) -> None:
        """See `Cluster`: nothing."""

    def reboot_node(self) -> None:
        """At once, as by a loss of power: nothing is ended, nothing written to the disks."""
        # Late enough for the answer to this order.
        self.on_node(["sh", "-c", "{ sleep 15; echo b >/proc/sysrq-trigger; } &"])
        self._boots += 1
        self._wait_up()

    def restart_kubelet(self) -> None:
        self.on_node(["pkill", "-KILL", "--exact", "kubelet"])
        self.on_node([f"{NODE}/component", "kubelet"])
        healthy = ["get", "--raw", f"/api/v1/nodes/{certificates.NODE}/proxy/healthz"]
        self.wait_for("kubelet to be healthy", lambda: self.kubectl(*healthy))

    def _files(self, kernel: debian.Kernel) -> dict[str, Path]:
        """What the initramfs brings along, by its path there."""
        pki, made = self.namespaces.pki, self.namespaces.state / "node"
        kubeconfig = (pki / "kubelet.kubeconfig").read_text()
        texts = {
            "settings": f"NAME={certificates.NODE} ADDRESS={ADDRESS} GATEWAY={GATEWAY}\n",
            "containerd.toml": node.CONTAINERD.format(
                socket=node.SOCKET, pause=images.PAUSE, state=NODE, base_spec=""
            ),
            "kubelet.yaml": re.sub(
                "evictionHard: .*",
                KUBELET,
                node.KUBELET.format(socket=node.SOCKET, pki=f"{NODE}/pki", cgroup_root=""),
            ),
            "pki/kubelet.kubeconfig": kubeconfig.replace(str(pki), f"{NODE}/pki"),
            "cni/10-bridge.conflist": node.BRIDGE,
        }
        for name, text in texts.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(text)
        return {
            "init": HERE / "init",
            OLDER_MODULE.removeprefix("/run/"): self._module(kernel, OLDER_VERSION),
            **{f"node/{name}": HERE / name for name in ("start", "component")},
            **{f"node/{name}": made / name for name in texts},
            **{f"node/pki/{name}": pki / name for name in ("ca.crt", "kubelet.crt", "kubelet.key")},
        }

    def _module(self, kernel: debian.Kernel, version: str) -> Path:
        """som.ko of this tree, which says that it is of this version."""
        folder = self.namespaces.state / "modules" / version
        shutil.copytree(images.PROJECT / "driver", folder / "driver")
        main = folder / "driver/main.c"
        line = f'MODULE_VERSION("{VERSION}")'
        assert line in main.read_text()
        main.write_text(main.read_text().replace(line, f'MODULE_VERSION("{version}")'))
        return build.module(kernel, folder / "driver", folder / "som.ko")

    def _wait_up(self) -> None:
        def up() -> bool:
            if not self.namespaces.alive("guest"):
                raise ClusterError(f"the guest has ended: see {self.namespaces.logs}")
            return self.said().count("node: up") == self._boots

        self.wait_for("the guest to be up", up)

    def said(self) -> str:
        """What the guest's kernel has said."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def on_node(self, command: Sequence[str]) -> str:
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(60 * SLOWNESS)
            port.connect(str(self._shell))
            port.sendall(base64.b64encode(shlex.join(command).encode()) + b"\n")
            answer = port.makefile().readline()
        status, _, said = answer.partition(" ")
        text = base64.b64decode(said).decode(errors="replace")
        if status != "0":
            raise ClusterError(f"{shlex.join(command)} on the node: exit status {status}\n{text}")
        return text

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return super().kubectl(*map(patient, arguments), stdin=stdin, check=check)

    def helm(self, *arguments: str) -> str:
        return super().helm(*map(patient, arguments))

    def wait_for(self, what: str, probe: Callable[[], T], *, deadline_s: float = 60) -> T:
        # Each question is work for the guest, or takes the processor from it.
        return wait_until(what, probe, deadline_s=SLOWNESS * deadline_s, every_s=1)


def patient(argument: str) -> str:
    """`--timeout=60s` for the emulated machine; every other argument as it is."""
    option, _, seconds = argument.removesuffix("s").partition("=")
    return f"{option}={int(seconds) * SLOWNESS}s" if option == "--timeout" else argument
