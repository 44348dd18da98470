"""Alerts and dashboard: they name metrics that exist, and say what to do. promtool has tried the
alerts in `tests/cluster/test_alerts.py`."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from unit.chart import templates

DOCS = pathlib.Path(__file__).parents[3] / "docs"
(GROUP,) = yaml.safe_load((templates.CHART / "monitoring/alerts.yaml").read_text())["groups"]
ALERTS: list[dict[str, Any]] = GROUP["rules"]
DASHBOARD: dict[str, Any] = json.loads((templates.CHART / "monitoring/dashboard.json").read_text())
BY_NAME = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
METRIC = re.compile(r"\bsom_\w+")


def _metrics() -> list[tuple[str, str]]:
    """Name and type of every metric."""
    text = (DOCS / "reference/metrics.md").read_text()
    return re.findall(r"^\| `(som_\w+)` \| (\w+) ", text, re.M)


def _documented() -> set[str]:
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in _metrics() for part in parts.get(kind, ("",))}


def _targets() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from panel.get("targets", ())


@BY_NAME
def test_an_alert_names_metrics_that_exist(alert: dict[str, Any]) -> None:
    named = METRIC.findall(alert["expr"])
    assert named
    assert set(named) <= _documented()


@BY_NAME
def test_an_alert_says_what_happens_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["for"]
    texts = alert["annotations"]
    assert texts.keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = texts["runbook_url"].partition("#")
    assert page == "docs/how-to/troubleshoot.md"
    text = (DOCS.parent / page).read_text()
    titles = re.findall(r"^##+ (.*)$", text, re.M)
    assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert f"`{alert['alert']}`" in text


@BY_NAME
def test_an_alert_tells_only_labels_that_it_has(alert: dict[str, Any]) -> None:
    told = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    kept = re.search(r"\bby \(([\w, ]+)\)", alert["expr"])
    assert told <= set(kept[1].split(", ") if kept else ())


def test_the_dashboard_names_metrics_that_exist() -> None:
    for target in _targets():
        named = METRIC.findall(target["expr"])
        assert named
        assert set(named) <= _documented(), target


def test_no_metric_is_without_use() -> None:
    named = {
        *(name for alert in ALERTS for name in METRIC.findall(alert["expr"])),
        *(name for target in _targets() for name in METRIC.findall(target["expr"])),
    }
    parts = {"histogram": "_bucket"}
    assert {name + parts.get(kind, "") for name, kind in _metrics()} <= named


def test_the_dashboard_has_no_data_source_of_its_own() -> None:
    first, *others = DASHBOARD["templating"]["list"]
    assert (first["name"], first["type"]) == ("datasource", "datasource")
    for shown in (*others, *(panel for panel in DASHBOARD["panels"] if panel["type"] != "row")):
        assert shown["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert "id" not in DASHBOARD


def test_panels_of_the_dashboard_have_their_own_place() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        fields = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & fields, panel["title"]
        taken |= fields
