"""The dashboard is one that Grafana reads, and that its maker made."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import combinations
from typing import Any

import fastjsonschema

from tests.support.server import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads(
    (GRAFANA / "dashboards" / "cacheserver.json").read_text(encoding="utf-8")
)
SCHEMA = ROOT / "tests" / "deploy" / "grafana-dashboard.schema.json"


def test_it_keeps_to_the_schema_of_grafana() -> None:
    """Every field is one that Grafana knows, with a value that it takes."""
    validate = fastjsonschema.compile(json.loads(SCHEMA.read_text(encoding="utf-8")))
    validate(DASHBOARD)


def test_it_is_what_its_maker_makes() -> None:
    """The JSON in the tree is what make_dashboard.py writes."""
    spec = importlib.util.spec_from_file_location("make_dashboard", GRAFANA / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert maker.dashboard() == DASHBOARD


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    """Each lies within Grafana's 24 columns, on no other, and has a description."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 30
    places = [panel["gridPos"] for panel in panels]
    assert all(0 <= place["x"] <= 24 - place["w"] for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")


def test_every_query_heeds_the_instance_that_is_chosen() -> None:
    """Each expression filters by the variable, so that two servers are not mixed up unseen."""
    expressions = [
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    ]
    assert len(expressions) > 35
    for expression in expressions:
        selectors = re.findall(r"\{[^}]*\}", expression)
        assert selectors, expression
        assert all("$instance" in selector or "alertname" in selector for selector in selectors), (
            expression
        )


def test_it_is_provisioned_with_its_data_source() -> None:
    """The data source tells the scrape interval, which the panels' rates depend on."""
    scrape = (ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    source = (GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    interval = re.search(r"^  scrape_interval: (\w+)$", scrape, re.MULTILINE)
    assert interval is not None
    assert f"timeInterval: {interval[1]}\n" in source
