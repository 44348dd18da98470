"""The disks of the node: Debian with kubelet and containerd, and the images that containerd has.

Both are made here, by this machine's own speed, and kept in the cache. The node writes to copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.harness import binaries
from cluster.harness.errors import run, wait_until
from guests import debian

CACHE = debian.CACHE.parent / "vm"
PROGRAMS = "opt/kubernetes"
"""Where on the disk the programs are that the harness has built."""
PACKAGES = (
    "base-files", "bash", "dash", "coreutils", "findutils", "grep", "sed", "mawk", "mount",
    "util-linux", "procps", "kmod", "iproute2", "ndctl", "daxctl", "runc",
    "containernetworking-plugins",
    "liblzma5",  # kmod loads it, to read Debian's modules
)  # fmt: skip
NOT_IN_PACKAGES = (
    "dev", "proc", "sys", "run", "tmp", "root", "var/log", "var/lib/kubelet", "var/lib/containerd",
)  # fmt: skip
MADE_BY_SCRIPTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
}
"""Files of an installed Debian that packages write when they are installed, not unpacked."""
IMPORTER = """\
version = 3
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",
                    "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{state}/socket"
"""


def system(kernel: debian.Kernel) -> Path:
    """Debian with the modules and headers of `kernel`, kubelet, containerd and runc."""
    folders = [binaries.build(name) for name in ("kubernetes", "containerd")]

    def fill(root: Path) -> None:
        packages = (f"linux-image-{kernel.release}", *PACKAGES)
        with debian.cache_locked():
            series = debian.SERIES[kernel.name]
            debian.update(series)
            debian.unpack(series, packages, root)
        # The headers without the compilers that their packages depend on.
        for path in ("src", "lib/linux-kbuild-*", f"lib/modules/{kernel.release}/build"):
            for source in (kernel.root / "usr").glob(path):
                target = root / source.relative_to(kernel.root)
                run(["cp", "--archive", "--no-target-directory", source, target])
        run(["chroot", root, "/usr/sbin/depmod", kernel.release])
        for name in NOT_IN_PACKAGES:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, text in MADE_BY_SCRIPTS.items():
            (root / name).write_text(text)
        (root / "var/run").rmdir()
        (root / "var/run").symlink_to("/run")
        (root / PROGRAMS).mkdir(parents=True)
        for folder in folders:
            for name in {"kubelet", "containerd", "containerd-shim-runc-v2", "ctr"}:
                if (folder / name).exists():
                    shutil.copy(folder / name, root / PROGRAMS)

    versions = [kernel.release, *(folder.name for folder in folders)]
    return _made("system", [*versions, Path(__file__).read_text()], fill)


def containers(archives: Sequence[Path]) -> Path:
    """containerd's directory with these images imported; an archive is named by what it holds."""

    def fill(root: Path) -> None:
        folder = binaries.build("containerd")
        with _containerd(folder, root) as socket:
            for archive in archives:
                ctr = [str(folder / "ctr"), f"--address={socket}", "--namespace=k8s.io"]
                run([*ctr, "images", "import", str(archive)])

    return _made("containers", sorted(archive.name for archive in archives), fill)


def _made(name: str, key: Sequence[str], fill: Callable[[Path], None]) -> Path:
    """The ext4 image of what `fill` puts into a directory; of each name the newest is kept."""
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    image = CACHE / f"{name}-{digest}.ext4"
    if image.exists():
        return image
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        root, partial = Path(scratch) / "root", Path(scratch) / "partial"
        fill(root)
        run(["truncate", "--size=4G", partial])
        run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", root, partial])
        for old in CACHE.glob(f"{name}-*.ext4"):
            old.unlink()
        partial.rename(image)
    return image


@contextlib.contextmanager
def _containerd(folder: Path, root: Path) -> Iterator[Path]:
    """A containerd with `root` that runs nothing; its socket."""
    with tempfile.TemporaryDirectory(prefix="som-containerd-") as state:
        settings, socket = Path(state) / "settings.toml", Path(state) / "socket"
        settings.write_text(IMPORTER.format(root=root, state=state))
        command = ["nice", "-n", "10", str(folder / "containerd"), f"--config={settings}"]
        with (Path(state) / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(
                "containerd to answer",
                lambda: run([folder / "ctr", f"--address={socket}", "version"]),
                deadline_s=60,
            )
            yield socket
        finally:
            process.terminate()
            process.wait()
