"""The pictures of docs/how-to/watch-the-fleet.md: `python tests/web/showcase.py FOLDER`.

A fleet as an admin may have it, with a few things that want attention.
"""

import pathlib
import random
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from playwright import sync_api

from fakes import fleet as fakes
from fakes import reviewer as reviewers
from som_api import leases, v1alpha1
from som_api.web import fleet
from web import serving

GIB = fakes.GIB
POOLS = {"databases": 192, "caches": 64}
NODES = 640


class Showcase(fakes.FakeFleet):
    """640 nodes in four zones: all have the pool `databases`, every second `caches` as well."""

    def __init__(self) -> None:
        super().__init__(0)
        self._random = random.Random(13)
        self._nodes = {
            f"mem-{zone}-{number:03}": self._node(f"mem-{zone}-{number:03}", number)
            for zone in "abcd"
            for number in range(NODES // 4)
        }
        found = [node.somnode.status for node in self._nodes.values()]
        self.pools = {name: self._pool(name, found) for name in POOLS}

    async def leases_of(self, node: str) -> list[leases.Lease]:
        chosen = random.Random(node)
        return [self._held(node, number, chosen) for number in range(chosen.randint(3, 7))]

    def _held(self, node: str, number: int, chosen: random.Random) -> leases.Lease:
        name = chosen.choice(("orders", "ledger", "search", "sessions", "graph"))
        return leases.Lease(
            lease=f"{number:016x}",
            start=1,
            namespace=chosen.choice(("shop", "payments", "search")),
            pod=f"{name}-{number}",
            uid=f"{node}-{number}",
            container=name,
            pool="databases" if number % 3 else "caches",
            driver="HugeTLBFS",
            unit="2Mi",
            size_bytes=chosen.choice((2, 4, 8, 16, 32)) * GIB,
            state="Delivered",
            since=f"2026-11-{chosen.randint(1, 27):02}T0{chosen.randint(0, 9)}:12:00Z",
        )

    def _node(self, name: str, number: int) -> fleet.Node:
        pools = list(POOLS)[: 2 - number % 2]
        is_short, is_held = self._random.random() < 0.012, self._random.random() < 0.006
        level = min(1.0, max(0.05, self._random.gauss(0.68, 0.2)))
        somnode = v1alpha1.SomNode.model_validate(
            {
                "metadata": {"name": name},
                "spec": {"pools": [_order(pool) for pool in pools]},
                "status": {
                    "bootID": "6f1c0e9e-5f0a-4f5e-9a47-2f4f0d0f7c11",
                    "kernelVersion": "6.12.57+deb13-amd64",
                    "agentVersion": "0.2.0",
                    "memory": f"{512 * GIB}",
                    "pools": [_has(pool, level, is_short=is_short) for pool in pools],
                    "hugePages": [{"pageSize": "2Mi", "total": "264Gi", "pools": "256Gi"}],
                    "conditions": [
                        _condition(
                            "Degraded",
                            "True" if is_held else "False",
                            "LeaseHeld" if is_held else "AsExpected",
                            "4Gi of shop/orders-2 are still held by process 18231 (fio): end it",
                        ),
                        _condition("Blocked", "False", "NotBlocked", ""),
                        _condition("AgentReady", "True", "AgentReady", ""),
                    ],
                },
            }
        )
        return fleet.Node(somnode, self._random.random() > 0.003, agent_ready=True)

    def _pool(self, name: str, nodes: list[v1alpha1.SomNodeStatus]) -> v1alpha1.SomPool:
        here = [pool for node in nodes for pool in node.pools if pool.name == name]
        ready = sum(pool.capacity == POOLS[name] * GIB for pool in here)
        is_ready = ready == len(here)
        return v1alpha1.SomPool.model_validate(
            {
                "metadata": {"name": name},
                "spec": {
                    "unit": "2Mi",
                    "capacity": f"{POOLS[name]}Gi",
                    "source": {"hugeTLB": {"pageSize": "2Mi"}},
                },
                "status": {
                    "nodes": {"matched": len(here), "ready": ready, "degraded": len(here) - ready},
                    "capacity": sum(pool.capacity for pool in here),
                    "allocated": sum(pool.allocated for pool in here),
                    "conditions": [
                        _condition(
                            "Ready",
                            "True" if is_ready else "False",
                            "Reserved" if is_ready else "PartlyReserved",
                            "",
                        )
                    ],
                },
            }
        )


def _order(pool: str) -> dict[str, object]:
    return {
        "name": pool,
        "generation": 1,
        "unit": "2Mi",
        "capacity": f"{POOLS[pool]}Gi",
        "source": {"hugeTLB": {"pageSize": "2Mi"}},
    }


def _has(pool: str, level: float, *, is_short: bool) -> dict[str, object]:
    capacity_gib = POOLS[pool] * 5 // 8 if is_short else POOLS[pool]
    allocated = int(level * capacity_gib) // 2 * 2 * GIB
    left = POOLS[pool] // 2
    message = (
        f"{capacity_gib}Gi of {POOLS[pool]}Gi: no contiguous memory on NUMA node 1; "
        "reserve it right after boot, or use a smaller capacity"
    )
    return {
        "name": pool,
        "generation": 1,
        "unit": "2Mi",
        "capacity": capacity_gib * GIB,
        "allocated": allocated,
        "free": capacity_gib * GIB - allocated,
        "numa": [
            {"node": 0, "capacity": left * GIB},
            {"node": 1, "capacity": (capacity_gib - left) * GIB},
        ],
        "conditions": [
            _condition(
                "Ready",
                "False" if is_short else "True",
                "PartlyReserved" if is_short else "Reserved",
                message if is_short else "",
            )
        ],
    }


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-28T11:00:00Z",
    }


def main(folder: pathlib.Path) -> None:
    """Take the pictures."""
    with (
        tempfile.TemporaryDirectory() as keys,
        serving.serving(Showcase(), serving.certify(pathlib.Path(keys))) as served,
        sync_api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=serving.CHROMIUM, args=["--no-sandbox"]
        )
        for name, path, scheme in (
            ("fleet", "/", "light"),
            ("node", f"/nodes/{_short(served.fleet)}", "dark"),
        ):
            page = browser.new_page(
                ignore_https_errors=True,
                viewport={"width": 1200, "height": 1010},
                color_scheme="dark" if scheme == "dark" else "light",
                extra_http_headers={"Authorization": f"Bearer {reviewers.ADMIN}"},
            )
            page.goto(served.origin + path)
            page.get_by_role("button", name="Live").wait_for()
            page.screenshot(path=folder / f"{name}.png")


def _short(shown: fakes.FakeFleet) -> str:
    """A node with two pools that lacks memory."""
    for name in shown.node_names():
        node = shown.node(name)
        assert node is not None
        pools = node.somnode.status.pools
        if len(pools) == 2 and pools[0].capacity < POOLS["databases"] * GIB:
            return name
    raise AssertionError("no node lacks memory")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
