"""From pod created to memory touched, on a real cluster, beside pods with native huge pages.

One JSON line per figure, both kinds in turn. Either pod's memory is zeroed within the time: som's
before its container starts, native huge pages when the program touches them.

    sudo .venv/bin/python benchmarks/pod_start.py --pods 20
"""

import argparse
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

SIZES_MIB: Final = (64, 1024)
COUNTER: Final = pathlib.Path(
    "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
)
POOL: Final = {
    "apiVersion": "som.io/v1alpha1",
    "kind": "SomPool",
    "metadata": {"name": "examples"},
    "spec": {"unit": "2Mi", "capacity": "1Gi", "source": {"hugeTLB": {"pageSize": "2Mi"}}},
}


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """som with 1 GiB, and 1 GiB of native huge pages that kubelet knows."""
    binaries.install_packages()
    cluster = Cluster()
    cluster.up()
    try:
        COUNTER.write_text(str(int(COUNTER.read_text()) + max(SIZES_MIB) // 2))
        cluster.restart_kubelet()
        for archive in release.build():
            cluster.load(archive)
        release.install(cluster)
        cluster.apply(POOL)
        cluster.kubectl("wait", "--for=condition=Ready", "sompool/examples", "--timeout=90s")
        yield cluster
    finally:
        cluster.down()


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
    count = parser.parse_args().pods
    with running_cluster() as cluster:
        for mib in SIZES_MIB:
            own = pods.pod("own", pods.container("touch", "clock", "hold", units=mib // 2))
            limits = {"hugepages-2Mi": f"{mib}Mi", "memory": "64Mi"}
            native = pods.container("native", str(mib << 20), "clock", "hold")
            native = {**native, "resources": {"limits": limits}}
            seconds: dict[str, list[float]] = {"own": [], "native": []}
            for counted in range(-1, count):
                for name, manifest in {"own": own, "native": pods.pod("native", native)}.items():
                    took = seconds_to_touched(cluster, name, manifest)
                    pods.wait_allocated(cluster, "examples", "0")
                    if counted >= 0:
                        seconds[name].append(took)
            for name, figure in {"own": "som", "native": "native"}.items():
                local.figure(
                    f"{figure}: pod created to touched memory",
                    seconds[name],
                    unit="s",
                    mib=mib,
                    p95=round(sorted(seconds[name])[math.ceil(0.95 * count) - 1], 3),
                )


if __name__ == "__main__":
    main()
