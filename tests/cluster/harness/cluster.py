"""The cluster as tests and people use it: up, down, and what can be done to it meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cluster.harness import binaries, certificates, control_plane, hugetlb, images, node, reboot
from cluster.harness.errors import ClusterError, wait_until
from cluster.harness.namespaces import Namespaces

T = TypeVar("T")
Manifest = Mapping[str, Any]


class Cluster:
    """One cluster per machine; `up` and `down` may run in different processes."""

    _STATE = "state"
    _LOCK = hugetlb.LOCK

    def __init__(self) -> None:
        folders = [str(folder) for folder in binaries.build_all()]
        self.namespaces = Namespaces(
            state=binaries.CACHE / self._STATE,
            path=":".join([*folders, "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
        )
        self._shared = self.namespaces.state / "shared"

    def shared(self) -> bool:
        """Whether a cluster is up that `make cluster-up` has started, for whoever wants it."""
        return self._shared.exists() and self.namespaces.first_pid() is not None

    def up(self, *, shared: bool = False) -> None:
        """Start everything and wait for a Ready node; on failure nothing is left."""
        if self.shared():
            raise ClusterError("a cluster is up already; end it with `make cluster-down`")
        lock = hugetlb.take_lock(self._LOCK)
        begin = time.monotonic()
        try:
            self._clean()
            self._start(lock)
            if shared:
                self._shared.touch()
        except BaseException:
            self._clean(keep_logs=True)
            raise
        finally:
            os.close(lock)
        print(f"the cluster is up after {time.monotonic() - begin:.0f} s", flush=True)

    def down(self) -> None:
        """End everything and give back what the machine lent."""
        pid = self.namespaces.first_pid()
        lock = hugetlb.take_lock(self._LOCK) if pid is None else hugetlb.share_lock(pid, self._LOCK)
        try:
            self._clean()
        finally:
            os.close(lock)

    def _start(self, lock: int) -> None:
        namespaces = self.namespaces
        namespaces.state.mkdir(parents=True)
        self._borrow()
        certificates.write_all(namespaces.pki)
        namespaces.create(keep_open=lock)
        control_plane.start(namespaces)
        self._start_node()
        self.kubectl("wait", "--for=create", f"node/{certificates.NODE}", "--timeout=120s")
        self.kubectl("wait", "--for=condition=Ready", f"node/{certificates.NODE}", "--timeout=120s")
        self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=120s")

    def _start_node(self) -> None:
        namespaces = self.namespaces
        node.write_settings(namespaces)
        hugetlb.mount_controller(namespaces)
        node.make_cgroups(namespaces)
        node.start_containerd(namespaces)
        self.load(images.build_static("pause", tag=images.PAUSE))
        self.load(images.build_static("workload", tag=images.WORKLOAD))
        node.start_kubelet(namespaces)

    def _clean(self, *, keep_logs: bool = False) -> None:
        state = self.namespaces.state
        self.namespaces.destroy()
        self._give_back()
        if keep_logs and self.namespaces.logs.exists():
            kept = binaries.CACHE / "failed-logs"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(self.namespaces.logs, kept)
            print(f"the logs of the components are in {kept}", flush=True)
        if state.exists():
            shutil.rmtree(state)

    def _borrow(self) -> None:
        """Remember what this machine has, of what the node will use."""
        hugetlb.remember_pages(self.namespaces.state / "pages.json")

    def _give_back(self) -> None:
        hugetlb.give_back_pages(self.namespaces.state / "pages.json")
        hugetlb.remove_cgroups()

    def load(self, archive: Path) -> None:
        """Give an image archive to containerd."""
        ctr = ["ctr", f"--address={node.SOCKET}", "--namespace=k8s.io"]
        self.namespaces.run([*ctr, "images", "import", archive])

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as cluster administrator; return what it printed."""
        return self.namespaces.run(["kubectl", *arguments], stdin=stdin, check=check).stdout

    def helm(self, *arguments: str) -> str:
        return self.namespaces.run(["helm", *arguments]).stdout

    def apply(self, *manifests: Manifest | str) -> None:
        """Apply manifests, as values or as YAML text; raise ClusterError where one is refused."""
        for manifest in manifests:
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            self.kubectl("apply", "--filename=-", stdin=text)

    def get(self, kind: str, name: str = "", *, namespace: str = "default") -> Any:
        """One object, or a list's items where no name is given."""
        words = ["get", kind, *([name] if name else []), f"--namespace={namespace}"]
        answer = json.loads(self.kubectl(*words, "--output=json"))
        return answer if name else answer["items"]

    def wait_for(self, what: str, probe: Callable[[], T], *, deadline_s: float = 60) -> T:
        """Ask until the answer is true; errors of kubectl count as "not yet"."""
        return wait_until(what, probe, deadline_s=deadline_s)

    def logs(self, pod: str, *, namespace: str = "default", container: str = "") -> str:
        words = ["logs", pod, f"--namespace={namespace}"]
        return self.kubectl(*words, *([f"--container={container}"] if container else []))

    def on_node(self, command: Sequence[str]) -> str:
        """Run a command on the node, without kubelet; return what it printed."""
        return self.namespaces.run(command).stdout

    def stop_api_server(self) -> None:
        """The control plane's machine goes away, but for the contents of etcd."""
        for name in ("apiserver", "controller-manager", "scheduler"):
            self.namespaces.stop(name, force=True)

    def start_api_server(self) -> None:
        # Clients that go on through a minute without a server wait up to another one: hence all.
        control_plane.start_api_server(self.namespaces)
        control_plane.start_controllers(self.namespaces)

    def stop_kubelet(self) -> None:
        self.namespaces.stop("kubelet", force=True)

    def start_kubelet(self) -> None:
        node.start_kubelet(self.namespaces)

    def restart_kubelet(self) -> None:
        self.stop_kubelet()
        self.start_kubelet()

    def change_memory_manager(self, *, static: bool) -> None:
        """Restart kubelet with the memoryManagerPolicy Static, or None."""
        self.stop_kubelet()
        node.change_memory_manager(self.namespaces, static=static)
        self.start_kubelet()

    def huge_pages_added(self) -> int:
        """Huge pages that the machine has more than before `up`."""
        return hugetlb.added_pages(self.namespaces.state / "pages.json")

    def reboot_node(self) -> None:
        """A reboot in effect: see `reboot`. The control plane goes on."""
        kept = ["etcd", "apiserver", "controller-manager", "scheduler"]
        reboot.power_off(self.namespaces, kept=kept)
        reboot.change_boot_id(self.namespaces)
        node.start_containerd(self.namespaces)
        node.start_kubelet(self.namespaces)

    def restart_containerd(self) -> None:
        self.namespaces.stop("containerd")
        node.start_containerd(self.namespaces)
