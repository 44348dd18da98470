"""containerd and kubelet of the one node, their settings and their cgroups."""

from __future__ import annotations

import sys

from cluster.harness import reboot
from cluster.harness.certificates import NODE, NODE_IP
from cluster.harness.errors import ClusterError, wait_until
from cluster.harness.hugetlb import CGROUP_ROOT, hierarchies
from cluster.harness.images import PAUSE
from cluster.harness.namespaces import Namespaces

SOCKET = "/run/containerd/containerd.sock"

# restrict_oom_score_adj: a root without CAP_SYS_RESOURCE may not lower it, and sandboxes die.
CONTAINERD = """\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  # Nobody asks for them; by default every container is asked each second.
  stats_collect_period = "1h"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{state}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{base_spec}"
"""

BRIDGE = """\
{"cniVersion": "1.0.0", "name": "som-test", "plugins": [{
  "type": "bridge", "bridge": "pods0", "isGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]],
           "routes": [{"dst": "0.0.0.0/0"}]}}]}
"""

# clusterDNS names nobody: without it every pod gets a warning event.
KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/kubelet.crt
tlsPrivateKeyFile: {pki}/kubelet.key
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup_root}
failCgroupV1: false
failSwapOn: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
nodeStatusUpdateFrequency: 2s
crashLoopBackOff: {{maxContainerRestartPeriod: 1s}}
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}
"""

# What kubelet asks for with Static: exactly what evictionHard keeps free.
STATIC = """\
memoryManagerPolicy: Static
reservedMemory: [{numaNode: 0, limits: {memory: 100Mi}}]
"""


def write_settings(namespaces: Namespaces) -> None:
    state = namespaces.state
    base_spec = reboot.write_hook(namespaces)
    (state / "cni").mkdir()
    (state / "cni" / "10-bridge.conflist").write_text(BRIDGE)
    (state / "containerd.toml").write_text(
        CONTAINERD.format(socket=SOCKET, pause=PAUSE, state=state, base_spec=base_spec)
    )
    (state / "kubelet.yaml").write_text(
        KUBELET.format(socket=SOCKET, pki=namespaces.pki, cgroup_root=CGROUP_ROOT)
    )


def change_memory_manager(namespaces: Namespaces, *, static: bool) -> None:
    """What an administrator does while kubelet is stopped; without it kubelet would not start."""
    settings = namespaces.state / "kubelet.yaml"
    text = settings.read_text().replace(STATIC, "")
    settings.write_text(text + STATIC if static else text)
    (namespaces.var / "lib/kubelet/memory_manager_state").unlink()


def make_cgroups(namespaces: Namespaces) -> None:
    """Make kubelet's root, which it expects to exist; in v1 cpuset is empty until it is set."""
    for hierarchy in hierarchies():
        script = f"""
        cd {hierarchy}; mkdir -p {CGROUP_ROOT}
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e $file ] || cat $file > {CGROUP_ROOT}/$file
        done
        """
        namespaces.run(["sh", "-ec", script])


def start_containerd(namespaces: Namespaces) -> None:
    namespaces.start("containerd", ["containerd", f"--config={namespaces.state}/containerd.toml"])
    ask = ["ctr", f"--address={SOCKET}", "version"]
    wait_until("containerd to answer", lambda: namespaces.run(ask).stdout, deadline_s=120)


def start_kubelet(namespaces: Namespaces) -> None:
    words = ["kubelet", f"--config={namespaces.state}/kubelet.yaml", "--v=2"]
    words += [f"--kubeconfig={namespaces.pki}/kubelet.kubeconfig"]
    namespaces.start("kubelet", [*words, f"--hostname-override={NODE}", f"--node-ip={NODE_IP}"])
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:10248/healthz').read())"

    def healthy_or_ended() -> str:
        if not namespaces.alive("kubelet"):
            return "ended"
        return namespaces.run([sys.executable, "-c", ask]).stdout

    if wait_until("kubelet to be healthy", healthy_or_ended, deadline_s=120) == "ended":
        raise ClusterError(f"kubelet ended at its start; see {namespaces.logs}/kubelet.log")
