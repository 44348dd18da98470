"""A reboot of the node in effect, while the control plane goes on.

Everything that a reboot ends is ended: kubelet, runtime, containers, mounts, cgroups, huge pages.
The one thing it cannot make is another boot ID; it is bind-mounted over the kernel's, for
kubelet here and by a hook of the runtime in every container.
"""

from __future__ import annotations

import json
import uuid

from cluster.harness import hugetlb
from cluster.harness.namespaces import Namespaces

BOOT_ID = "/proc/sys/kernel/random/boot_id"

HOOK = """\
#!/bin/sh
# Runs in the new container's mount namespace, before its root is changed.
fake={state}/boot_id
[ -e "$fake" ] || exit 0
bundle=$(sed -n 's/.*"bundle":"\\([^"]*\\)".*/\\1/p')
exec mount --bind "$fake" "$bundle/rootfs{boot_id}"
"""

# First the processes, then what they held: deepest mounts first.
END = f"""
for pid in $(ps -eo pid=); do
    case " 1 $$ $KEPT " in *" $pid "*) ;; *) kill -KILL $pid 2> /dev/null || true ;; esac
done
sleep 0.5
awk '$2 ~ "^/(var/lib/(som|kubelet|containerd)|run/containerd|run/netns)/" {{ print $2 }}' \\
    /proc/self/mounts | tac | while read -r target; do umount -l "$target"; done
rm -rf /run/containerd /run/netns/*
cd /sys/fs/cgroup
find */som */{hugetlb.CGROUP_ROOT}/* -depth -type d -exec rmdir {{}} + 2> /dev/null
ip link delete pods0 2> /dev/null || true
"""


def write_hook(namespaces: Namespaces) -> str:
    """Write the base of all containers' OCI specs, with the hook; return its path."""
    hook = namespaces.state / "boot-id-hook"
    hook.write_text(HOOK.format(state=namespaces.state, boot_id=BOOT_ID))
    hook.chmod(0o755)
    spec = json.loads(namespaces.run(["ctr", "oci", "spec"]).stdout)
    spec["hooks"] = {
        "createContainer": [{"path": str(hook), "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]
    }
    path = namespaces.state / "base-spec.json"
    path.write_text(json.dumps(spec))
    return str(path)


def power_off(namespaces: Namespaces, *, kept: list[str]) -> None:
    """End everything of the node but the components `kept`; nothing of it runs afterwards."""
    pids = " ".join((namespaces.state / f"{name}.pid").read_text().strip() for name in kept)
    namespaces.run(["env", f"KEPT={pids}", "sh", "-c", END])
    hugetlb.give_back_pages(namespaces.state / "pages.json")


def change_boot_id(namespaces: Namespaces) -> None:
    fake = namespaces.state / "boot_id"
    fresh = not fake.exists()
    fake.write_text(f"{uuid.uuid4()}\n")
    if fresh:
        namespaces.run(["mount", "--bind", str(fake), BOOT_ID])
