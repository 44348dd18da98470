"""Plan a fleet: seconds and memory, one JSON line per figure.

    python benchmarks/plan.py --nodes 5000 --pools 4

Preparation (decoding every object as it comes from the API server), a full plan of all nodes, the
plan of one node, and the status of one pool. `rss_bytes` is that of the whole process.
"""

import argparse
import json
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

from som_api import v1alpha1
from som_api.plan import observed, plan, pool_status, standing, tally

GIB = 2**30
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pools", type=int, default=4)
    arguments = parser.parse_args()
    count = arguments.nodes

    idle_bytes = _rss_bytes()
    sompools = [_sompool(number) for number in range(arguments.pools)]
    decoded = _timed("decode_nodes", lambda: [observed.decode_node(_node(i)) for i in range(count)])
    nodes = {node.name: node for node in decoded}
    pools = standing.Pools(sompools)
    somnodes: dict[str, v1alpha1.SomNode] = {}

    def planned(node: observed.Node) -> plan.NodePlan:
        return plan.plan_node(pools, node, somnodes.get(node.name), observed.bound(()))

    def planned_fleet() -> dict[str, plan.NodePlan]:
        return {name: planned(node) for name, node in nodes.items()}

    first = _timed("plan_empty_fleet", planned_fleet)
    somnodes = _timed(
        "decode_somnodes",
        lambda: {
            name: v1alpha1.SomNode.model_validate(_somnode(name, its_plan))
            for name, its_plan in first.items()
        },
    )
    plans = _timed("plan_full_fleet", planned_fleet)
    node = next(iter(nodes.values()))
    _timed("plan_one_node", lambda: planned(node))
    pool = next(iter(pools.by_name.values()))
    on_nodes = {n: p.on_node[pool.name] for n, p in plans.items() if pool.name in p.on_node}
    tallied = _timed("tally_of_one_pool", lambda: tally.Tally(on_nodes))
    _timed("status_of_one_pool", lambda: pool_status.pool_status(pool, tallied))
    _print("memory", rss_bytes=_rss_bytes(), idle_rss_bytes=idle_bytes, nodes=count)


def _timed(figure: str, work: Callable[[], T]) -> T:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    result = work()
    _print(
        figure,
        seconds=round(time.perf_counter() - wall_s, 6),
        cpu_seconds=round(time.process_time() - cpu_s, 6),
    )
    return result


def _print(figure: str, **values: float) -> None:
    print(json.dumps({"benchmark": "plan", "figure": figure, **values}), flush=True)


def _rss_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _sompool(number: int) -> v1alpha1.SomPool:
    """Pools in pairs, one per unit; each pair selects its part of the fleet."""
    return v1alpha1.SomPool.model_validate(
        {
            "metadata": {
                "name": f"pool-{number}",
                "generation": 1,
                "finalizers": [standing.FINALIZER],
            },
            "spec": {
                "nodeSelector": {"matchLabels": {"part": str(number // 2)}},
                "unit": "1Gi" if number % 2 else "2Mi",
                "capacity": 64 * GIB,
                "source": {"hugeTLB": {"pageSize": "2Mi"}},
            },
        }
    )


def _node(number: int) -> dict[str, Any]:
    labels = {f"example.com/label-{i}": "some-value" for i in range(20)}
    return {
        "metadata": {
            "name": f"node-{number}",
            "uid": f"00000000-0000-0000-0000-{number:012}",
            "labels": {**labels, "part": str(number % 2), "kubernetes.io/hostname": f"n{number}"},
        },
        "status": {
            "capacity": {"cpu": "128", "memory": "1Ti", "som.io/2Mi": "32768", "som.io/1Gi": "64"},
            "nodeInfo": {"bootID": f"boot-{number}"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _somnode(name: str, planned: plan.NodePlan) -> dict[str, Any]:
    entries = [entry.model_dump(mode="json", exclude_none=True) for entry in planned.entries]
    reports = [
        {
            "name": entry["name"],
            "generation": 1,
            "unit": entry["unit"],
            "capacity": entry["capacity"],
            "allocated": "16Gi",
            "free": "48Gi",
            "conditions": [{"type": "Ready", "status": "True", "reason": "Reserved"}],
        }
        for entry in entries
    ]
    return {
        "metadata": {"name": name, "uid": name, "generation": 1},
        "spec": {"pools": entries},
        "status": {
            "observedGeneration": 1,
            "bootID": name.replace("node", "boot"),
            "pools": reports,
        },
    }


if __name__ == "__main__":
    main()
