"""The chart's alerts on promtool: each fires when it should, and keeps still when it should not."""

import dataclasses
import json
import pathlib
import subprocess

import pytest
import yaml

from cluster.harness import binaries

MONITORING = pathlib.Path(__file__).parents[2] / "charts/som/monitoring"
RULES = MONITORING / "alerts.yaml"
(GROUP,) = yaml.safe_load(RULES.read_text())["groups"]
Series = dict[str, str]
LONG = "x100"
"""Of a series: so many minutes."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Series by name and labels, of one sample a minute (`start+step x count`)."""

    alert: str
    fires: Series
    keeps_still: Series
    labels: Series = dataclasses.field(default_factory=dict)


def _buckets(metric: str, **by_limit: str) -> Series:
    return {f'{metric}_bucket{{node="n1", le="{le}"}}': line for le, line in by_limit.items()}


def _latencies(metric: str, *, fast: int, slow: int) -> Series:
    """So many observations a minute below 1 s, and between 5 and 15 s."""
    lines = {"1": fast, "5": fast, "15": fast + slow, "+Inf": fast + slow}
    return _buckets(metric, **{le: f"0+{each}{LONG}" for le, each in lines.items()})


CASES = [
    Case(
        "SomOperatorAbsent",
        {"som_operator_nodes": f"0{LONG}"},
        # Another replica is there while the first one goes.
        {
            'som_operator_build_info{pod="a"}': "1x20",
            'som_operator_build_info{pod="b"}': f"_x18 1{LONG}",
        },
    ),
    Case(
        "SomNoLeader",
        {f'som_operator_leader{{pod="{pod}"}}': f"0{LONG}" for pod in "ab"},
        # One takes over from the other.
        {
            'som_operator_leader{pod="a"}': "1x20 0x100",
            'som_operator_leader{pod="b"}': "0x23 1x100",
        },
    ),
    Case(
        "SomAgentsLost",
        # A follower knows less than the leader.
        {
            'som_operator_nodes_without_agent{pod="a"}': f"0{LONG}",
            'som_operator_nodes_without_agent{pod="b"}': f"2{LONG}",
        },
        {"som_operator_nodes_without_agent": "0x20 1x4 0x100"},
    ),
    Case(
        "SomPoolIncomplete",
        {'som_operator_pool_nodes{pool="db", state="degraded"}': f"3{LONG}"},
        # Every pool is reserved once; shrinking waits for pods, however long they run.
        {
            'som_operator_pool_nodes{pool="db", state="reserving"}': "5x25 0x100",
            'som_operator_pool_nodes{pool="db", state="shrinking"}': f"5{LONG}",
        },
        {"pool": "db", "state": "degraded"},
    ),
    Case(
        "SomPoolNearlyFull",
        {
            'som_agent_pool_bytes{pool="db", state="free", node="a"}': f"0{LONG}",
            'som_agent_pool_bytes{pool="db", state="free", node="b"}': f"3{LONG}",
            'som_agent_pool_bytes{pool="db", state="allocated", node="a"}': f"100{LONG}",
        },
        # A pool without memory is not full.
        {
            'som_agent_pool_bytes{pool="db", state="free"}': f"6{LONG}",
            'som_agent_pool_bytes{pool="db", state="allocated"}': f"94{LONG}",
            'som_agent_pool_bytes{pool="new", state="free"}': f"0{LONG}",
            'som_agent_pool_bytes{pool="new", state="allocated"}': f"0{LONG}",
        },
        {"pool": "db"},
    ),
    Case(
        "SomMemoryHeld",
        {'som_agent_held_bytes{namespace="shop", pod="db-0"}': f"4194304{LONG}"},
        {'som_agent_held_bytes{namespace="shop", pod="db-0"}': "4194304x20 0x100"},
        {"namespace": "shop", "pod": "db-0"},
    ),
    Case(
        "SomAgentFails",
        {'som_agent_failures_total{node="n1", place="inventory"}': f"0+2{LONG}"},
        {'som_agent_failures_total{node="n1", place="inventory"}': "0x10 0+2x8 16x100"},
        {"node": "n1", "place": "inventory"},
    ),
    Case(
        "SomWatchStale",
        {
            'som_agent_watch_age_seconds{pod="a", resource="pods"}': f"0+60{LONG}",
            'som_operator_watch_age_seconds{pod="b", resource="pods"}': f"0+60{LONG}",
        },
        {'som_agent_watch_age_seconds{pod="a", resource="pods"}': f"150{LONG}"},
        {"resource": "pods"},
    ),
    Case(
        "SomReconcilesFail",
        {'som_operator_reconcile_failures_total{controller="node"}': f"0+1{LONG}"},
        {'som_operator_reconcile_failures_total{controller="node"}': "0x10 0+5x3 15x100"},
        {"controller": "node"},
    ),
    Case(
        "SomQueueWaits",
        {'som_operator_queue_age_seconds{queue="nodes"}': f"0+60{LONG}"},
        {'som_operator_queue_age_seconds{queue="nodes"}': f"20{LONG}"},
        {"queue": "nodes"},
    ),
    Case(
        "SomObjectsUnreadable",
        {
            'som_operator_unreadable_objects{pod="a", resource="sompools"}': f"0{LONG}",
            'som_agent_unreadable_objects{pod="b", resource="sompools"}': f"1{LONG}",
        },
        {'som_operator_unreadable_objects{resource="sompools"}': "0x20 1x10 0x100"},
        {"resource": "sompools"},
    ),
    Case(
        "SomAllocateSlow",
        _latencies("som_agent_allocate_seconds", fast=10, slow=5),
        _latencies("som_agent_allocate_seconds", fast=10, slow=0),
        {"node": "n1"},
    ),
    Case(
        "SomStoreSlow",
        _latencies("som_agent_store_write_seconds", fast=10, slow=5),
        _latencies("som_agent_store_write_seconds", fast=10, slow=0),
        {"node": "n1"},
    ),
]


@pytest.fixture(scope="module")
def promtool() -> str:
    subprocess.run([binaries.INSTALL, "prometheus"], check=True)
    return "promtool"


def _run(*words: str | pathlib.Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _tests(series: Series, alert: str, expected: list[Series]) -> dict[str, object]:
    """Whether the alert fired within the first hour: of one that has fired, `ALERTS` remembers."""
    fired = f'max_over_time(ALERTS{{alertname="{alert}", alertstate="firing"}}[1h])'
    (severity,) = (r["labels"]["severity"] for r in GROUP["rules"] if r["alert"] == alert)
    common = {"alertname": alert, "alertstate": "firing", "severity": severity}
    samples = [
        ", ".join(f'{name}="{value}"' for name, value in {**common, **labels}.items())
        for labels in expected
    ]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": line} for name, line in series.items()],
        "promql_expr_test": [
            {
                "expr": fired,
                "eval_time": "1h",
                "exp_samples": [{"labels": f"{{{each}}}", "value": 1} for each in samples],
            }
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_and_keeps_still(promtool: str, tmp_path: pathlib.Path, case: Case) -> None:
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            _tests(case.fires, case.alert, [case.labels]),
            _tests(case.keeps_still, case.alert, []),
        ],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump(document))
    _run(promtool, "test", "rules", path)


def test_every_alert_is_tried() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in GROUP["rules"]]


def test_prometheus_takes_every_expression_of_the_dashboard(
    promtool: str, tmp_path: pathlib.Path
) -> None:
    """With what Grafana would put in place of its variables."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [
        {
            "record": f"shown:{number}",
            "expr": expr.replace("$__rate_interval", "5m").replace("$pool", ".*"),
        }
        for number, expr in enumerate(expressions)
    ]
    assert not [rule for rule in rules if "$" in rule["expr"]]
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]}))
    _run(promtool, "check", "rules", path)
