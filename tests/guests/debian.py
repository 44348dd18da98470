"""Debian kernels with their headers and compilers, unpacked side by side in the cache.

Each kernel becomes one directory `kernels/<release>` that holds the image, its modules and a
root to build in (`chroot` and `make`), so that objtool and modpost meet the libc that they were
linked with. apt runs with a configuration of its own: the machine's sources and package state
are neither read nor changed. Nothing is installed, only unpacked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "som" / "driver"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org")
BUILD_TOOLS = (
    "make", "binutils", "bash", "dash", "coreutils", "sed", "grep", "mawk", "findutils",
    "diffutils", "gzip",
)  # fmt: skip
NOT_NEEDED = ("initramfs-tools", "linux-base")
LISTS_MAX_AGE_S = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Which Debian suite has a kernel series, and how its versions begin."""

    suite: str
    lists: tuple[str, ...]
    prefix: str
    kind: str = "deb"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """One unpacked kernel: `release` is what `uname -r` says in the guest.

    `append`: what its guests have on their command line besides. `slowness`: how many times longer
    its guests may take.
    """

    name: str
    release: str
    root: Path
    append: str = ""
    slowness: int = 1

    @property
    def image(self) -> Path:
        return self._boot_file("vmlinuz")

    @property
    def modules(self) -> Path:
        return self.root / "usr/lib/modules" / self.release / "kernel"

    @property
    def headers(self) -> str:
        return f"/usr/src/linux-headers-{self.release}"

    @property
    def sources(self) -> Path:
        """`headers`, which says where they are in the root, as this machine sees them."""
        return self.root / self.headers.lstrip("/")

    def has(self, option: str) -> bool:
        return f"CONFIG_{option}=y" in self._boot_file("config").read_text().splitlines()

    def _boot_file(self, name: str) -> Path:
        # Debian packages of 7.3 and later keep these beside the modules.
        old, new = self.root / "boot" / f"{name}-{self.release}", self.modules.parent / name
        return old if old.exists() else new


BOOKWORM = ("debian bookworm", "debian-security bookworm-security")
TRIXIE = ("debian trixie", "debian-security trixie-security", "debian trixie-backports")
SERIES = {
    "6.1": Series(suite="bookworm", lists=BOOKWORM, prefix="6.1."),
    "6.12": Series(suite="trixie", lists=TRIXIE, prefix="6.12."),
    "newest": Series(suite="trixie", lists=TRIXIE, prefix=""),
}


class DebianError(Exception):
    """A package could not be found, fetched or unpacked."""


def kernel(name: str) -> Kernel:
    """The kernel of a series in `SERIES`, fetched and unpacked unless the cache has it."""
    series = SERIES[name]
    with cache_locked():
        try:
            release = newest_release(series)
        except DebianError:
            if (cached := newest_cached(series)) is None:
                raise
            release = cached
        found = Kernel(name=name, release=release, root=CACHE / "kernels" / release)
        if not found.image.exists():
            shutil.rmtree(found.root, ignore_errors=True)
            built_with = (f"linux-headers-{release}", *BUILD_TOOLS)
            unpack(series, (f"linux-image-{release}", *built_with), found.root)
        return found


def library(package: str, pattern: str) -> Path:
    """The one file of a bookworm package that matches, unpacked into the cache."""
    series = SERIES["6.1"]
    unpacked = CACHE / "packages" / package
    with cache_locked():
        if not any(unpacked.glob(pattern)):
            update(series)
            archives = world(series) / "archives"
            apt(series, "apt-get", "-qq", "download", package, cwd=archives)
            (newest,) = sorted(archives.glob(f"{package}_*.deb"))[-1:]
            unpacked.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", newest, unpacked], check=True)
        return next(unpacked.glob(pattern)).resolve()


@contextlib.contextmanager
def cache_locked(name: str = "lock") -> Iterator[None]:
    """One test run at a time fetches and unpacks; another one then finds what it has left."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def newest_release(series: Series) -> str:
    """Release of the newest cloud kernel of a series, from Debian's meta package."""
    update(series)
    shown = apt(series, "apt-cache", "show", "linux-image-cloud-amd64")
    found = re.findall(r"^Version: (\S+)$(?:\n.+)*?\nDepends:.* linux-image-(\d\S+)", shown, re.M)
    releases = [str(release) for version, release in found if version.startswith(series.prefix)]
    if not releases:
        raise DebianError(f"no kernel {series.prefix}* in {series.suite}; the suites have {found}")
    return max(releases, key=by_version)


def newest_cached(series: Series) -> str | None:
    names = [path.name for path in (CACHE / "kernels").glob(f"{series.prefix}*-cloud-amd64")]
    return max(names, key=by_version, default=None)


def by_version(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def unpack(series: Series, packages: Sequence[str], root: Path) -> None:
    """Packages and what they depend on, without their scripts, as a new directory."""
    install = ("apt-get", "-qq", "-y", "--no-install-recommends", "install", *packages)
    apt(series, *install, "--download-only")
    listed = apt(series, *install, "--print-uris", "-o", "Dir::Cache::archives=/nonexistent")
    names = re.findall(r"^'[^']+' (\S+\.deb)", listed, re.M)
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for merged in ("bin", "sbin", "lib", "lib64"):
        (partial / "usr" / merged).mkdir(parents=True)
        (partial / merged).symlink_to(f"usr/{merged}")
    for name in names:
        unpacked = ["dpkg-deb", "--fsys-tarfile", world(series) / "archives" / name]
        with subprocess.Popen(unpacked, stdout=subprocess.PIPE) as deb:
            subprocess.run(
                ["tar", "-x", "-C", partial, "--keep-directory-symlink",
                 "--exclude=./usr/share/doc/*", "--exclude=./usr/share/man/*",
                 "--exclude=./usr/share/locale/*"],
                stdin=deb.stdout, check=True,
            )  # fmt: skip
    for link, target in (("sh", "dash"), ("awk", "mawk")):
        if not (partial / "usr/bin" / link).exists():
            (partial / "usr/bin" / link).symlink_to(target)
    for mounted in ("dev", "proc"):
        (partial / mounted).mkdir(exist_ok=True)
    os.mknod(partial / "dev/null", 0o20666, os.makedev(1, 3))
    partial.rename(root)


def world(series: Series) -> Path:
    return CACHE / "apt" / series.suite


@functools.cache
def update(series: Series) -> None:
    """Fetches the package lists unless those here are of today."""
    base = world(series)
    for made in ("lists/partial", "archives/partial", "none"):
        (base / made).mkdir(parents=True, exist_ok=True)
    (base / "status").write_text(
        "".join(
            f"Package: {name}\nStatus: install ok installed\nVersion: 999\n"
            "Architecture: all\nMaintainer: som\nDescription: not needed here\n\n"
            for name in NOT_NEEDED
        )
    )
    (base / "sources.list").write_text(
        "".join(
            f"{series.kind} [signed-by={KEYRING}] {MIRROR}/{archive} {suite} main\n"
            for archive, suite in (line.split() for line in series.lists)
        )
    )
    (base / "apt.conf").write_text(
        f'Dir::State "{base}"; Dir::State::status "{base}/status";\n'
        f'Dir::State::lists "{base}/lists"; Dir::Cache "{base}";\n'
        f'Dir::Cache::archives "{base}/archives"; Dir::Etc::sourcelist "{base}/sources.list";\n'
        + "".join(
            f'Dir::Etc::{part} "{base}/none";\n'
            for part in ("parts", "sourceparts", "trustedparts", "preferencesparts")
        )
        + f'Dir::Etc::trusted "{base}/none/none"; Dir::Etc::preferences "{base}/none/none";\n'
        'APT::Architecture "amd64"; Acquire::Languages "none"; APT::Sandbox::User "root";\n'
        'Acquire::Retries "3";\n'
    )
    stamp = base / "updated"
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > LISTS_MAX_AGE_S:
        apt(series, "apt-get", "-qq", "update", "--error-on=any")
        stamp.touch()


def apt(series: Series, *command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "APT_CONFIG": str(world(series) / "apt.conf"), "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DebianError(
            f"{' '.join(command)} for {series.suite} failed: {done.stderr.strip()}; "
            f"packages come from {MIRROR} (DEBIAN_MIRROR names another mirror)"
        )
    return done.stdout
