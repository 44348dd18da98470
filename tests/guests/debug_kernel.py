"""A kernel with its own checks, built from Debian's source once per version and `debug.config`.

KASAN, lockdep, page_table_check and their kind end in what `guest.ALARMS` knows. The root holds
what Debian's kernels have in theirs: image, headers, and the compiler that built both.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from guests import debian

NAME = "debug"
CONFIG = Path(__file__).with_name("debug.config")
SERIES = debian.SERIES["6.12"]
SOURCE = "linux-source-6.12"
TOOLS = (
    "gcc", "libc6-dev", "flex", "bison", "bc", "perl", "libelf-dev", "tar", "xz-utils",
    *debian.BUILD_TOOLS,
)  # fmt: skip
# Emulated beside another guest, a test takes up to so many times as long as on Debian's kernel.
SLOWNESS = 6
# identify_cpu() forgets for a moment that page tables have five levels: an interrupt just then is
# an invalid access to KASAN, and lockdep ends.
CHECKS = "debug_pagealloc=on page_poison=1 kasan_multi_shot no5lvl"
# Of the size that it has as a module of Debian.
DISK = "brd.rd_size=16384"
# No shorter than a slow guest needs.
PATIENCE = "sysctl.kernel.hung_task_timeout_secs=600 rcupdate.rcu_cpu_stall_timeout=300"


def kernel() -> debian.Kernel:
    """The kernel, from the cache or built: 20 minutes of two processors."""
    made = hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]
    with debian.cache_locked("debug-lock"):
        try:
            with debian.cache_locked():
                version = newest_version()
        except debian.DebianError:
            cached = [path.name for path in debian.CACHE.glob(f"kernels/debug-*-{made}")]
            if not cached:
                raise
            version = max(cached, key=debian.by_version).split("-")[1]
        root = debian.CACHE / "kernels" / f"debug-{version}-{made}"
        if not root.exists():
            building = root.with_name(f"{root.name}.building")
            if not building.exists():
                with debian.cache_locked():
                    debian.unpack(SERIES, (SOURCE, *TOOLS), building)
            build(building)
            building.rename(root)
        (image,) = root.glob("boot/vmlinuz-*")
        return debian.Kernel(
            name=NAME,
            release=image.name.removeprefix("vmlinuz-"),
            root=root,
            append=f"{CHECKS} {PATIENCE} SOM_SLOWNESS={SLOWNESS} SOM_QUARANTINE=1 {DISK}",
            slowness=SLOWNESS,
        )


def newest_version() -> str:
    """6.12.118, without Debian's own part."""
    debian.update(SERIES)
    shown = debian.apt(SERIES, "apt-cache", "show", SOURCE)
    versions: list[str] = re.findall(r"^Version: (\d+\.\d+\.\d+)", shown, re.M)
    if not versions:
        raise debian.DebianError(f"{SERIES.suite} has no {SOURCE}")
    return max(versions, key=debian.by_version)


def build(root: Path) -> None:
    """Leaves image, config and headers where Debian's packages have them, and no source.

    A build that was interrupted goes on where it was.
    """
    source = root / "usr/src" / SOURCE
    packed = source.with_name(f"{SOURCE}.tar.xz")
    if packed.exists():
        shutil.rmtree(source, ignore_errors=True)
        inside(root, "/usr/src", "tar", "-xf", packed.name)
        packed.unlink()
    shutil.copy(CONFIG, source)
    inside(root, f"/usr/src/{SOURCE}", "make", "-s", "tinyconfig")
    merge = ("scripts/kconfig/merge_config.sh", "-m", ".config", CONFIG.name)
    inside(root, f"/usr/src/{SOURCE}", *merge)
    inside(root, f"/usr/src/{SOURCE}", "make", "-s", "olddefconfig")
    refuse_lost(source)
    inside(root, f"/usr/src/{SOURCE}", "make", "-s", f"-j{os.cpu_count()}", "bzImage", "modules")
    release = inside(root, f"/usr/src/{SOURCE}", "make", "-s", "kernelrelease").strip()
    headers = f"scripts/package/install-extmod-build /usr/src/linux-headers-{release}"
    inside(root, f"/usr/src/{SOURCE}", "make", "-s", "run-command", f"KBUILD_RUN_COMMAND={headers}")
    (root / "boot").mkdir(exist_ok=True)
    shutil.copy(source / ".config", root / "boot" / f"config-{release}")
    shutil.copy(source / "arch/x86/boot/bzImage", root / "boot" / f"vmlinuz-{release}")
    shutil.rmtree(source)


def refuse_lost(source: Path) -> None:
    """An option whose dependencies are not there is dropped without a word."""
    wanted = {line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_")}
    if lost := wanted - set((source / ".config").read_text().splitlines()):
        raise debian.DebianError(f"{CONFIG.name}: the kernel cannot have {sorted(lost)}")


def inside(root: Path, folder: str, *command: str) -> str:
    (root / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(
        ["nice", "-n", "10", "chroot", root, "/usr/bin/env", "-C", folder, *command],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise debian.DebianError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout
