"""The binaries of the cluster: built from Go modules, cached by version; the rest from Debian."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.harness.errors import ClusterError, run

KUBERNETES = "1.37.2"  # The one line to change for another Kubernetes.
GO_TOOLCHAIN = "1.26.8"  # Used where PATH has no Go that is new enough.

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "som" / "cluster"
SOURCES = Path(__file__).parent.parent / "gomod"
INSTALL = Path(__file__).parents[2] / "install-packages"

COMPONENTS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet"]
PACKAGES: Mapping[str, str] = {
    "/usr/sbin/runc": "runc",
    "/usr/bin/buildah": "buildah",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/usr/bin/gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/nsenter": "util-linux",
    "/usr/sbin/ip": "iproute2",
}


@dataclass(frozen=True)
class Build:
    """One Go module of ours and the commands that come from it."""

    module: str
    commands: Mapping[str, str]
    tags: str = ""
    stamp: tuple[str, ...] = ()
    """Variables that are set to the version; Kubernetes' parts refuse each other without it."""


BUILDS: Mapping[str, Build] = {
    "kubernetes": Build(
        module="k8s.io/kubernetes",
        commands={name: f"k8s.io/kubernetes/cmd/{name}" for name in COMPONENTS},
        stamp=(
            "k8s.io/component-base/version.gitVersion",
            "k8s.io/client-go/pkg/version.gitVersion",
        ),
    ),
    "containerd": Build(
        module="github.com/containerd/containerd/v2",
        commands={
            name: f"github.com/containerd/containerd/v2/cmd/{name}"
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        },
        tags="no_btrfs no_devmapper no_zfs",
        stamp=("github.com/containerd/containerd/v2/version.Version",),
    ),
    "etcd": Build(
        module="go.etcd.io/etcd/server/v3", commands={"etcd": "go.etcd.io/etcd/server/v3"}
    ),
    "helm": Build(
        module="helm.sh/helm/v3",
        commands={"helm": "helm.sh/helm/v3/cmd/helm"},
        stamp=("helm.sh/helm/v3/internal/version.version",),
    ),
}


def install_packages() -> None:
    """Install the Debian packages whose files are missing."""
    if missing := sorted(name for path, name in PACKAGES.items() if not Path(path).exists()):
        print(f"installing {' '.join(missing)}", flush=True)
        run([INSTALL, *missing])


def build_all() -> list[Path]:
    """Build what the cache lacks; return the folders that belong on PATH.

    Where it lacks nothing, nobody waits for who builds something else.
    """
    folders = [_folder(name) for name in BUILDS]
    if all(folder.exists() for folder in folders):
        return folders
    with one_builder():
        return [_build(name) for name in BUILDS]


def build(name: str) -> Path:
    """Build one of BUILDS unless the cache has it; return the folder of its commands."""
    with one_builder():
        return _build(name)


@contextlib.contextmanager
def one_builder() -> Iterator[None]:
    """No other process changes the cache meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _version(name: str) -> str:
    if name == "kubernetes":
        return KUBERNETES
    return _required(SOURCES / name, BUILDS[name].module)


def _folder(name: str) -> Path:
    return CACHE / f"{name}-{_version(name)}"


def _build(name: str) -> Path:
    build, source, version, target = BUILDS[name], SOURCES / name, _version(name), _folder(name)
    if target.exists():
        return target
    begin = time.monotonic()
    print(f"building {name} {version}", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}-build-") as scratch:
        tree = Path(scratch) / "source"
        shutil.copytree(source, tree)
        go = _go()
        if _required(tree, build.module) != version:
            _repoint(go, tree, version)
        flags = " ".join(f"-X {variable}=v{version}" for variable in build.stamp)
        output = Path(scratch) / "bin"
        output.mkdir()
        run(
            [
                "nice", "-n", "10", go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
                "-tags", build.tags, "-ldflags", f"-s -w {flags}", "-o", f"{output}/",
                *build.commands.values(),
            ],
            cwd=tree,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""},
            timeout_s=3600,
        )  # fmt: skip
        for command, package in build.commands.items():
            (output / _binary_name(package)).rename(output / command)
        output.rename(target)
    print(f"built {name} {version} in {time.monotonic() - begin:.0f} s", flush=True)
    return target


def _binary_name(package: str) -> str:
    """The name Go gives a command: the last part of its path that is not a major version."""
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


def _required(tree: Path, module: str) -> str:
    found = re.search(rf"^require {re.escape(module)} v(\S+)", (tree / "go.mod").read_text(), re.M)
    if not found:
        raise ClusterError(f"{tree}/go.mod has no line 'require {module} v...'")
    return found[1]


def _repoint(go: Path, tree: Path, version: str) -> None:
    """Point a copy of our go.mod at another Kubernetes and its staging modules."""
    answer = run([go, "mod", "download", "-json", f"k8s.io/kubernetes@v{version}"], cwd=tree)
    theirs = Path(json.loads(answer.stdout)["GoMod"]).read_text()
    staging = sorted(set(re.findall(r"^\s*(k8s\.io/[a-z-]+) => \./staging", theirs, re.M)))
    lines = [f"\t{module} => {module} v0.{version.split('.', 1)[1]}" for module in staging]
    (tree / "go.mod").write_text(
        "module som.test/cluster/kubernetes\n\ngo 1.26.0\n\n"
        f"require k8s.io/kubernetes v{version}\n\nreplace (\n" + "\n".join(lines) + "\n)\n"
    )
    run([go, "mod", "tidy"], cwd=tree)


def _go() -> Path:
    """Go from PATH when it is new enough, else from the module golang.org/toolchain."""
    if not shutil.which("go"):
        run([INSTALL, "golang-go"])
    found = Path(shutil.which("go") or "/usr/bin/go")
    version = re.search(r"go(\d+)\.(\d+)", run([found, "version"]).stdout)
    wanted = tuple(int(part) for part in GO_TOOLCHAIN.split(".")[:2])
    if version and (int(version[1]), int(version[2])) >= wanted:
        return found
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    module = f"golang.org/toolchain@v0.0.1-go{GO_TOOLCHAIN}.linux-{machine}"
    answer = run([found, "mod", "download", "-json", module], cwd=Path(tempfile.gettempdir()))
    root = Path(json.loads(answer.stdout)["Dir"])
    for tool in [*(root / "bin").iterdir(), *(root / "pkg" / "tool").glob("*/*")]:
        tool.chmod(0o755)  # A module's files come without the right to run.
    return root / "bin" / "go"
