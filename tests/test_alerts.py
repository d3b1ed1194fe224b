"""What conf/ has for Prometheus and Grafana: valid, tried out, and about metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from lbproxy.admin.metrics import metrics
from tests.admin.test_admin import Fixed
from tests.admin.test_metrics import PAGE, have_certificates, with_everything
from tests.programs import require

CONF = Path(__file__).parents[1] / "conf"
RULES = CONF / "prometheus" / "alerts.yaml"
TESTS = CONF / "prometheus" / "alerts_test.yaml"
DASHBOARD = CONF / "grafana" / "lbproxy.json"

ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
SCRAPED = {"job", "instance"}  # labels that Prometheus adds
OF_A_SERIES = ("", "_bucket", "_sum", "_count")  # what a histogram's name is followed by
SELECTOR = re.compile(r"\b(lbproxy_\w+)(?:\{([^}]*)\})?")


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run it; its output. Fails with that."""
    done = subprocess.run([require("promtool"), *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard, with where it is."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"]


def plain(expr: str, instance: str = "a|b") -> str:
    """As Grafana sends it."""
    return expr.replace("$__rate_interval", "5m").replace("$instance", instance).replace("$pool", ".*")


@pytest.fixture
async def exported(tmp_path: Path) -> dict[str, set[str]]:
    """The labels of each series that there can be."""
    view = Fixed()
    with_everything(view)
    have_certificates(view, tmp_path)
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families((await metrics(view)).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


# -- alerts ----------------------------------------------------------------------------------------------------------


def test_the_rules_are_valid() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_when_it_has_to_and_not_else() -> None:
    promtool("test", "rules", TESTS.name, cwd=TESTS.parent)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do_and_has_a_test(alert: dict[str, Any]) -> None:
    assert set(alert["annotations"]) == {"summary", "description"}
    assert len(alert["annotations"]["description"]) > 100
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    test = [one for one in yaml.safe_load(TESTS.read_text())["tests"] if one["name"].startswith(f"{alert['alert']}:")]
    samples = [query["exp_samples"] for one in test for query in one.get("promql_expr_test", ())]
    assert any(samples), "a case in which it fires"
    assert any("good" in series["series"] for one in test for series in one["input_series"]), "one in which it does not"
    assert not all(samples) or "for" not in alert, "one in which it waits"


def test_the_page_has_each_alert_with_its_severity_and_its_patience() -> None:
    rows = re.findall(r"^\| `(Lbproxy\w+)` \| (\w+) \| ([\w ]+) \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [(one["alert"], one["labels"]["severity"], one.get("for", "at once")) for one in ALERTS]


async def test_alerts_are_about_metrics_that_there_are(exported: dict[str, set[str]]) -> None:
    for alert in ALERTS:
        check_names(alert["alert"], alert["expr"], exported)


# -- dashboard -------------------------------------------------------------------------------------------------------


async def test_the_dashboard_is_about_metrics_that_there_are(exported: dict[str, set[str]]) -> None:
    for where, expr in expressions():
        check_names(where, expr, exported)


def test_the_dashboards_queries_are_valid(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": plain(expr)} for n, (_where, expr) in enumerate(expressions())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_a_backend_of_two_pools_has_its_health_in_each(tmp_path: Path) -> None:
    (expr,) = [expr for where, expr in expressions() if where == "Health A"]
    now = {"one": "down", "two": "not_ready"}
    series = [
        {
            "series": f'lbproxy_backend_health{{job="j",instance="a",pool="{pool}",backend="b",health="{health}"}}',
            "values": f"{int(now[pool] == health)}x2",
        }
        for pool in now
        for health in ("up", "not_ready", "down")
    ]
    expected = [
        {"labels": f'{{instance="a",pool="{pool}",backend="b"}}', "value": value}
        for pool, value in (("one", 1), ("two", 2))
    ]
    query = {"expr": plain(expr), "eval_time": "1m", "exp_samples": expected}
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [query]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    promtool("test", "rules", file)


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 38, "Grafana 10"
    assert dashboard["id"] is None, "the number is the Grafana's that imports it"
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert variables == {"datasource", "instance", "pool"}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__rate_interval", "__all"}
    assert used == variables
    assert not {panel["title"] for panel in PANELS if panel["type"] != "row" and not panel["description"]}


def test_the_panels_do_not_overlap_and_leave_no_gap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    depth = max(y for _x, y in taken) + 1
    gaps = {y for y in range(depth) for x in range(24) if (x, y) not in taken}
    assert not gaps, f"lines that are not full: {sorted(gaps)}"


def check_names(where: str, expr: str, exported: dict[str, set[str]]) -> None:
    """Every series that a query names is one of ours, and every label that it selects by is one of that series."""
    found = SELECTOR.findall(expr)
    assert found or '__name__=~"lbproxy_' in expr or "ALERTS" in expr, f"{where}: no metric of ours"
    for name, selector in found:
        if "__name__" in expr and name not in exported:
            continue  # a part of a pattern
        assert name in exported, f"{where}: there is no {name}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert labels <= exported[name] | SCRAPED, f"{where}: {name} has no such label: {selector}"
