"""The commands that look: what they print, as whole screens."""

import json

import pytest

from som_kubectl import kubectl, show, table
from unit.kubectl.conftest import Run
from unit.kubectl.fleets import Fleet, condition, pool

READY = condition("Ready", "True", "Reserved")
SHORT = condition("Ready", "False", "PartlyReserved", "full capacity (64Gi) on 1 of 2 nodes")


@pytest.fixture
def two_pools(fleet: Fleet) -> Fleet:
    counts = {"nodes": {"matched": 2, "ready": 1}, "capacity": "96Gi", "allocated": "64Gi"}
    databases = fleet.pool(pool("databases"), SHORT, **counts)
    caches = fleet.pool(pool("caches", "8Gi"), READY, capacity="8Gi")
    fleet.node("n1", databases, allocated="64Gi")
    missing = condition("AgentReady", "False", "AgentMissing", "no agent runs here")
    fleet.node("n2", databases, caches, conditions=(missing,))
    fleet.pod("db-0", node="n1", units=32768)
    fleet.pod("web", namespace="shop", units=512)
    return fleet


def test_pools_are_a_table(two_pools: Fleet, som: Run) -> None:
    assert som("pools") == (
        1,
        "NAME        UNIT   CAPACITY   ALLOCATED   NODES   READY-NODES   READY   REASON           "
        "MESSAGE\n"
        "caches      2Mi    8Gi        0           0       0             True    Reserved         "
        "-\n"
        "databases   2Mi    96Gi       64Gi        2       1             False   PartlyReserved   "
        "full capacity (64Gi) on 1 of 2 nodes\n",
        "",
    )


def test_pools_of_a_name_are_those_alone(two_pools: Fleet, som: Run) -> None:
    status, printed, _ = som("pools", "caches")
    assert (status, len(printed.splitlines())) == (0, 2)


def test_a_pool_that_is_not_there_is_an_error(two_pools: Fleet, som: Run) -> None:
    assert som("pools", "nobody") == (2, "", "error: look for pool nobody: there is none\n")


def test_nodes_tell_their_trouble(two_pools: Fleet, som: Run) -> None:
    status, printed, _ = som("nodes")
    _, first, second = printed.splitlines()
    assert status == 1
    assert first.split()[:6] == ["n1", "True", "databases", "64Gi", "64Gi", "64Gi"]
    assert second.endswith("AgentMissing: no agent runs here")


def test_nodes_can_be_those_of_a_pool_or_those_with_a_trouble(two_pools: Fleet, som: Run) -> None:
    assert [line.split()[0] for line in som("nodes", "--pool=caches")[1].splitlines()[1:]] == ["n2"]
    assert [line.split()[0] for line in som("nodes", "--not-ready")[1].splitlines()[1:]] == ["n2"]


def test_leases_are_of_the_namespace_of_the_context(two_pools: Fleet, som: Run) -> None:
    (row,) = json.loads(som("leases", "-o", "json")[1])["items"]
    assert (row["pod"], row["pool"], row["requestedBytes"]) == ("db-0", "databases", 64 * 2**30)
    assert [row["pod"] for row in json.loads(som("leases", "-A", "-ojson")[1])["items"]] == [
        "db-0",
        "web",
    ]


def test_leases_go_without_pools_where_somnodes_are_not_to_be_seen(
    two_pools: Fleet, som: Run
) -> None:
    two_pools.kubectl.forbidden.add("somnodes")
    status, printed, beside = som("leases", "-n", "default")
    assert status == 0
    assert "db-0" in printed
    assert beside.startswith("without pools: somnodes is forbidden")


def test_top_sorts_by_what_is_held(two_pools: Fleet, som: Run) -> None:
    lines = som("top", "-A")[1].splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["default/db-0", "shop/web"]
    assert "64Gi" in lines[1]
    assert "##########  98%" in lines[1]
    assert som("top", "nodes")[1].splitlines()[1].split()[:3] == ["n1", "64Gi", "64Gi"]
    assert som("top", "pools")[1].splitlines()[1].split()[:3] == ["databases", "64Gi", "96Gi"]


def test_status_is_one_screen_with_the_troubles(two_pools: Fleet, som: Run) -> None:
    status, printed, _ = som("status")
    assert status == 1
    assert printed.splitlines()[:2] == [
        "som in namespace som-system: operator 1/1 ready, agents 3/3 ready; version 0.1.0",
        "2 pools on 2 nodes: 136Gi reserved, containers hold 64Gi, 136Gi free   #####.....  47%",
    ]
    assert "databases   PartlyReserved   full capacity (64Gi) on 1 of 2 nodes" in printed
    assert "node   n2          AgentMissing     no agent runs here" in printed
    assert "kubectl som explain pool/databases" in printed


def test_status_of_a_fleet_that_is_well_is_0(fleet: Fleet, som: Run) -> None:
    fleet.node("n", fleet.pool(pool("a"), READY))
    status, printed, _ = som("status")
    assert status == 0
    assert printed.endswith("all is well\n")


def test_yaml_is_for_programs(two_pools: Fleet, som: Run) -> None:
    assert som("pools", "caches", "-o", "yaml")[1].startswith("items:\n- name: caches\n  unit: 2Mi")


def test_a_cluster_without_som_is_named(fleet: Fleet, som: Run) -> None:
    fleet.kubectl.absent.add("sompools")
    assert som("pools") == (
        2,
        "",
        "error: kubectl get --raw /apis/som.io/v1alpha1/sompools?limit=500: the server could not "
        "find the requested resource; the cluster does not know som: install the chart, or choose "
        "another --context\n",
    )


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        (
            'Error from server (NotFound): error when creating "STDIN": the server could not find '
            "the requested resource (post sompools.som.io)",
            "the cluster does not know som",
        ),
        (
            'error: resource mapping not found for name: "a" namespace: "" from "STDIN": no '
            'matches for kind "SomPool" in version "som.io/v1alpha1"\nensure CRDs are installed '
            "first",
            "the cluster does not know som",
        ),
        ("error: cannot locate context nowhere", "see that the cluster is up"),
    ],
)
def test_what_kubectl_says_has_a_cure(answer: str, cure: str) -> None:
    assert cure in str(kubectl.refusal(("apply", "--filename=-"), answer))


def test_a_right_that_is_missing_is_named_with_the_cure(two_pools: Fleet, som: Run) -> None:
    two_pools.kubectl.forbidden.add("sompools")
    status, _, beside = som("pools")
    assert status == 2
    assert 'sompools is forbidden: User "ann" cannot list resource "sompools"' in beside
    assert "your user lacks this right" in beside


def test_a_pool_that_cannot_be_read_is_shown(two_pools: Fleet, som: Run) -> None:
    broken = pool("broken")
    broken["spec"]["unit"] = "7Mi"
    two_pools.pool(broken)
    assert "Unreadable" in som("pools", "broken")[1]


def test_a_narrow_terminal_loses_columns_and_then_the_end_of_the_last(two_pools: Fleet) -> None:
    rows = [show.Pool("databases", "2Mi", 2**36, 0, 2, 1, "False", "PartlyReserved", "x" * 80)]
    for wide in (140, 100, 80, 60):
        lines = table.lines(show.pools_table(rows), wide=wide)
        assert max(map(len, lines)) <= wide
    assert lines[1].endswith("…")
    assert "UNIT" not in table.lines(show.pools_table(rows), wide=80)[0]


def test_what_strangers_write_does_not_steer_the_terminal() -> None:
    lines = table.lines(table.Table(("NAME",), [("a\x1b[2Jb\n",)]))
    assert lines[1] == "a [2Jb"


@pytest.mark.parametrize(("part", "text"), [(0, "..........   0%"), (1, "#####.....  50%")])
def test_a_bar_shows_the_share(part: int, text: str) -> None:
    assert table.bar(part, 2) == text
