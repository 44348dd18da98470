"""From pod created to memory touched, on a real cluster, beside pods with native huge pages.

One JSON line per figure, both kinds and all sizes in turn. som's memory was zeroed ahead, before
the pod is created; native huge pages are zeroed when the program touches them, and so within the
time.

    sudo .venv/bin/python benchmarks/pod_start.py --pods 20 --mib 64 1024 4096 8192
"""

import argparse
import collections
import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Final

import local

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from cluster.harness import binaries
from cluster.harness.cluster import Cluster
from cluster.scenes import pods, release

FIGURES: Final = {"own": "som, zeroed ahead", "native": "native"}
MOST_NATIVE_MIB: Final = 4096
"""Beside the pool, no more has to fit into this machine."""
COUNTER: Final = pathlib.Path(
    "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
)
LIST_SPARES: Final = f"""
import sqlite3
store = sqlite3.connect("file:/var/lib/som/som.db?mode=ro", uri=True)
for row in store.execute({local.SPARES!r}):
    print(*row)
"""


@contextlib.contextmanager
def running_cluster(*, native_mib: int) -> Iterator[Cluster]:
    """som, and native huge pages that kubelet knows."""
    binaries.install_packages()
    cluster = Cluster()
    cluster.up()
    try:
        COUNTER.write_text(str(int(COUNTER.read_text()) + native_mib // 2))
        cluster.restart_kubelet()
        for archive in release.build():
            cluster.load(archive)
        release.install(cluster)
        yield cluster
    finally:
        cluster.down()


def order(cluster: Cluster, *, mib: int, warm_mib: int) -> None:
    """Have a pool of `mib` MiB, with so much zeroed ahead in one piece."""
    source = {"hugeTLB": {"pageSize": "2Mi"}}
    warm = [{"size": f"{warm_mib}Mi", "count": 1}]
    spec = {"unit": "2Mi", "capacity": f"{mib}Mi", "source": source, "warm": warm}
    kind = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool"}
    cluster.apply({**kind, "metadata": {"name": "examples"}, "spec": spec})
    cluster.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=90s")


def wait_warm(cluster: Cluster, *, mib: int) -> None:
    """Returns when a spare of `mib` MiB is built."""
    words = [sys.executable, "-c", LIST_SPARES]
    cluster.wait_for(
        f"{mib} MiB zeroed ahead",
        lambda: cluster.on_node(words).split() == [str(mib << 20)],
        deadline_s=120,
    )


def seconds_to_touched(cluster: Cluster, name: str, manifest: pods.Manifest) -> float:
    """Create a pod, read when its program was done, delete the pod."""
    begun = time.time()
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    pods.wait_ready(cluster, name)
    lines = pods.wait_output(cluster, name, "hold")
    touched = next(float(line.split()[1]) for line in lines if line.startswith("clock:"))
    pods.delete(cluster, name)
    return touched - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=20, help="counted pods of each kind and size")
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 1024, 4096, 8192])
    given = parser.parse_args()
    sizes_mib, count = sorted(given.mib), given.pods
    native_mib = min(sizes_mib[-1], MOST_NATIVE_MIB)
    seconds: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
    with running_cluster(native_mib=native_mib) as cluster:
        for counted in range(-1, count):
            for mib in sizes_mib:
                own = pods.container("touch", "clock", "hold", units=mib // 2)
                native = pods.container("native", str(mib << 20), "clock", "hold")
                huge = {"resources": {"limits": {"hugepages-2Mi": f"{mib}Mi", "memory": "64Mi"}}}
                kinds = {"own": own} | ({"native": {**native, **huge}} if mib <= native_mib else {})
                order(cluster, mib=sizes_mib[-1], warm_mib=mib)
                for name, container in kinds.items():
                    wait_warm(cluster, mib=mib)
                    took = seconds_to_touched(cluster, name, pods.pod(name, container))
                    pods.wait_allocated(cluster, "examples", "0")
                    if counted >= 0:
                        seconds[name, mib].append(took)
    for (name, mib), values in sorted(seconds.items()):
        local.figure(
            f"{FIGURES[name]}: pod created to touched memory",
            values,
            unit="s",
            mib=mib,
            p95=round(sorted(values)[math.ceil(0.95 * count) - 1], 3),
        )
    for mib in sizes_mib:
        for kind, other_mib in (("native", mib), ("own", sizes_mib[0])):
            pairs = zip(seconds["own", mib], seconds[kind, other_mib], strict=False)
            if ratios := [own / other for own, other in pairs]:
                beside = f"{FIGURES[kind]}, {other_mib} MiB"
                local.figure(f"som / {beside}", ratios, unit="ratio", mib=mib)


if __name__ == "__main__":
    main()
