"""The rules and alerts are what Prometheus takes, and each has its unit tests and its runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.prometheus import CONFIG, copied_config, promtool
from tests.support.server import ROOT

RULES: Final = (CONFIG / "rules.yml").read_text(encoding="utf-8")
ALERTS: Final = (CONFIG / "alerts.yml").read_text(encoding="utf-8")
UNIT_TESTS: Final = sorted((CONFIG / "tests").glob("*_test.yml"))
RECORDED: Final = re.findall(r"^ +- record: (\S+)$", RULES, re.MULTILINE)
ALERT_NAMES: Final = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)


def unit_tests() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in UNIT_TESTS)


def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    """Neither prometheus.yml nor the rules that it names have a fault that promtool finds."""
    said = promtool(
        "check", "config", copied_config(tmp_path, target="127.0.0.1:1", token="secret")
    )
    assert f"SUCCESS: {len(RECORDED)} rules found" in said
    assert f"SUCCESS: {len(ALERT_NAMES)} rules found" in said


def test_rules_give_the_figures_that_their_unit_tests_expect() -> None:
    """Every rule and every alert is evaluated by promtool, on series made up for it."""
    assert len(UNIT_TESTS) == 2
    assert promtool("test", "rules", *UNIT_TESTS).count("SUCCESS") == 2


@pytest.mark.parametrize("name", RECORDED)
def test_every_recording_rule_has_a_unit_test(name: str) -> None:
    """A sample of it is expected somewhere."""
    assert re.search(rf"labels: '{re.escape(name)}\{{", unit_tests())


@pytest.mark.parametrize("name", ALERT_NAMES)
def test_every_alert_is_tested_to_fire_and_not_to_fire(name: str) -> None:
    """It is expected at one time with its text, and expected not to be there at another."""
    tests = unit_tests()
    assert re.search(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels:", tests)
    assert re.search(rf"alertname: {name}, exp_alerts: \[\]", tests)


def test_every_alert_has_a_severity_and_a_runbook() -> None:
    """docs/alerts.md has a section for each alert, and for no other."""
    runbooks = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", runbooks))
    assert list(sections) == ALERT_NAMES
    for name, alert in zip(ALERT_NAMES, ALERTS.split("- alert: ")[1:], strict=True):
        severity = re.search(r"severity: (critical|warning)$", alert, re.MULTILINE)
        assert severity, name
        assert sections[name].strip().startswith(severity[1])
        assert f"runbook: docs/alerts.md#{name.lower()}" in alert
        assert re.findall(r"\*\*(.+?)\*\*", sections[name]) == ["Means", "Look at", "Do"]
