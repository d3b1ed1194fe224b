"""A real Prometheus scrapes a real lbproxy, and its alert says which backend has died."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.e2e.process import PATIENCE, free_port, lbproxy, wait_for
from tests.e2e.test_process import Backend, ask, connection
from tests.programs import require
from tests.test_alerts import RULES, expressions, plain

CHECK = "health_check: {type: http, interval: 200ms, fast_interval: 50ms, rise: 1}"


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._base}/-/ready", timeout=PATIENCE) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._base}/api/v1/{path}", timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> float | None:
        result = self.ask(f"query?query={query}")["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """Alerts by name."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[Prometheus]:
    """Run one that looks four times a second, with our alerts, which do not wait."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (directory / "alerts.yaml").write_text(yaml.safe_dump(rules))
    job = {"job_name": "lbproxy", "static_configs": [{"targets": [target]}]}
    file = directory / "prometheus.yml"
    pace = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    file.write_text(yaml.safe_dump({"global": pace, "rule_files": ["alerts.yaml"], "scrape_configs": [job]}))
    port = free_port()
    program = require("prometheus")
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        running = Prometheus(port)
        wait_for(lambda: running.ready() or process.poll() is not None, "Prometheus did not start")
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        process.terminate()
        process.wait(PATIENCE)


# Of what is shown only when it has happened: a balancer that is well has nothing there.
QUIET = {
    "Checks that failed A",
    "Leases: longest wait for a renewal A",
    "Next certificate to end A",
    "Streams by kind A",
    "What did not end well A",
    "By backend A",
    "Connects by result A",
    "annotation Alerts",
}


@contextmanager
def balanced(directory: Path, backends: list[Backend]) -> Iterator[tuple[int, Prometheus]]:
    """An lbproxy in front of backends, that a Prometheus has begun to scrape; the lbproxy's port."""
    port = free_port()
    addresses = ", ".join(f"'127.0.0.1:{backend.port}'" for backend in backends)
    text = (
        f"listeners: [{{name: api, bind: '127.0.0.1:{port}', mode: http, pool: masters}}]\n"
        f"pools: {{masters: {{backends: [{addresses}], {CHECK}}}}}\n"
    )
    try:
        with lbproxy(directory, text) as balancer, prometheus(directory, f"127.0.0.1:{balancer.admin}") as monitor:
            wait_for(lambda: monitor.value("sum(lbproxy_pool_eligible_backends)") == len(backends), "no scrape")
            yield port, monitor
    finally:
        for backend in backends:
            backend.stop()


def test_every_query_of_the_dashboard_can_be_answered_and_most_have_something_to_show(tmp_path: Path) -> None:
    require("prometheus")
    with balanced(tmp_path, [Backend(), Backend()]) as (port, monitor):
        with connection(port) as client:
            for _ in range(20):
                ask(client)
        wait_for(lambda: bool(monitor.value("sum(rate(lbproxy_listener_requests_total[5m]))")), "no requests")
        empty = {
            where
            for where, expr in expressions()
            if not monitor.ask(f"query?query={quote(plain(expr, '127.0.0.1.*'))}")["result"]
        }
        assert empty <= QUIET


def test_an_alert_names_the_backend_that_has_died_and_ends_when_it_is_back(tmp_path: Path) -> None:
    require("prometheus")
    backends = [Backend(), Backend(), Backend()]
    first = f"127.0.0.1:{backends[0].port}"
    with balanced(tmp_path, backends) as (_port, monitor):
        wait_for(lambda: all(rule["health"] == "ok" for rule in rules_of(monitor)), "rules that cannot be evaluated")
        wait_for(lambda: monitor.firing() == {}, "an alert while all is well")  # at first lbproxy was not there
        backends[0].stop()
        wait_for(lambda: "LbproxyBackendDown" in monitor.firing(), "no alert")
        alert = monitor.firing()["LbproxyBackendDown"]
        assert alert["labels"]["backend"] == first
        assert f"lbproxy maint {first}" in alert["annotations"]["description"]
        assert "LbproxyBelowQuorum" not in monitor.firing(), "two of three are a majority"
        backends[1].stop()
        wait_for(lambda: "LbproxyBelowQuorum" in monitor.firing(), "no alert")
        for backend in backends[:2]:
            backend.start()
        wait_for(lambda: not {"LbproxyBackendDown", "LbproxyBelowQuorum"} & set(monitor.firing()), "it goes on")


def rules_of(monitor: Prometheus) -> list[dict[str, Any]]:
    """Every rule, as it was evaluated last."""
    return [rule for group in monitor.ask("rules")["groups"] for rule in group["rules"]]
