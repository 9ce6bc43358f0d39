"""Writes the dashboard for Grafana, dashboards/cacheserver.json.

    python3 deploy/grafana/make_dashboard.py

Change it here, not in the JSON: a test compares the two. To try changes in Grafana's own editor first,
save them there under another name.

Ratios and quantiles come from the recording rules of deploy/prometheus/rules.yml, so that the dashboard,
the alerts and the documentation mean the same by them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

DASHBOARD: Final = Path(__file__).parent / "dashboards" / "cacheserver.json"

type Json = dict[str, Any]

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_INSTANCE: Final = 'instance=~"$instance"'
_NAMESPACE: Final = 'instance=~"$instance", namespace=~"$namespace"'
_WIDTH: Final = 24
"""Columns of Grafana's grid."""


def dashboard() -> Json:
    """Return the whole dashboard."""
    return {
        "uid": "cacheserver",
        "title": "cacheserver",
        "description": "What a cacheserver does, and where its locks wait.",
        "tags": ["cacheserver"],
        "schemaVersion": 42,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": list(_placed(_rows())),
    }


def _rows() -> list[tuple[str, list[Json]]]:
    """Return the rows: a title, and panels with a width and a height that say what comes where."""
    return [
        ("Overview", _overview()),
        ("Traffic", _traffic()),
        ("Hits", _hits()),
        ("Latency", _latency()),
        ("Lock waits", _lock_waits()),
        ("Stripes", _stripes()),
        ("Hot keys, of the last 30 to 60 seconds", _hot_keys()),
        ("Memory and entries", _memory()),
        ("Evictions and expirations", _evictions()),
        ("Conflicts of compare-and-set", _conflicts()),
        ("Event loops and process", _process()),
    ]


def _overview() -> list[Json]:
    up = _stat(
        "Servers up",
        "Of those that are scraped.",
        f'min(up{{job="cacheserver", {_INSTANCE}}})',
        [("red", None), ("green", 1)],
    )
    up["fieldConfig"]["defaults"]["mappings"] = [
        {
            "type": "value",
            "options": {"0": {"text": "not all", "index": 0}, "1": {"text": "all", "index": 1}},
        }
    ]
    return [
        up,
        _stat(
            "Alerts",
            "Alerts that are firing. docs/alerts.md says what to do.",
            'count(ALERTS{alertname=~"Cacheserver.+", alertstate="firing"}) or vector(0)',
            [("green", None), ("red", 1)],
        ),
        _stat(
            "Requests",
            "Requests a second, of all instances together.",
            f"sum(instance:cacheserver_requests:rate1m{{{_INSTANCE}}})",
            [("blue", None)],
            unit="reqps",
        ),
        _stat(
            "Errors",
            "The part of the requests that is answered with 5xx, 507 left out; of the worst instance.",
            f"max(instance:cacheserver_request_errors:ratio_rate1m{{{_INSTANCE}}})",
            [("green", None), ("red", 0.01)],
            unit="percentunit",
        ),
        _stat(
            "Hit ratio",
            "Of the worst instance.",
            f"min(instance:cacheserver_hits:ratio_rate1m{{{_INSTANCE}}})",
            [("blue", None)],
            unit="percentunit",
        ),
        _stat(
            "p99",
            "99 of 100 requests take no longer; of the worst instance.",
            f"max(instance:cacheserver_request_seconds:p99_rate1m{{{_INSTANCE}}})",
            [("blue", None)],
            unit="s",
        ),
        _stat(
            "Wait ratio",
            "Seconds waited for locks, of the seconds spent on requests; of the worst instance. From 10% on it is "
            "worth while to do something about it: /v1/locks says what.",
            f"max(instance:cacheserver_lock_wait:ratio_rate1m{{{_INSTANCE}}})",
            [("green", None), ("yellow", 0.02), ("red", 0.1)],
            unit="percentunit",
        ),
        _stat(
            "Memory",
            "Of --max-memory; of the fullest instance. 100% is usual for a cache that evicts.",
            f"max(instance:cacheserver_memory:ratio{{{_INSTANCE}}})",
            [("blue", None)],
            unit="percentunit",
        ),
        _lines(
            "Wait ratio",
            "Seconds waited for locks, of the seconds spent on requests. Above the line it is what slows the server.",
            (
                f"instance:cacheserver_lock_wait:ratio_rate1m{{{_INSTANCE}}}",
                "{{instance}}",
            ),
            unit="percentunit",
            line=0.1,
            width=12,
        ),
        _lines(
            "Requests",
            "A second, by instance.",
            (f"instance:cacheserver_requests:rate1m{{{_INSTANCE}}}", "{{instance}}"),
            unit="reqps",
            width=12,
        ),
    ]


def _traffic() -> list[Json]:
    requests = f"rate(cacheserver_requests_total{{{_INSTANCE}}}[$__rate_interval])"
    return [
        _lines(
            "Requests by method",
            "A second.",
            (f"sum by (method) ({requests})", "{{method}}"),
            unit="reqps",
            stack=True,
        ),
        _lines(
            "Requests by status",
            "A second. 404 is a miss, 412 a conflict, 507 a write that found no room.",
            (f"sum by (status) ({requests})", "{{status}}"),
            unit="reqps",
            stack=True,
        ),
        _lines(
            "Connections",
            "Open now.",
            (f"cacheserver_connections{{{_INSTANCE}}}", "{{instance}}"),
        ),
    ]


def _hits() -> list[Json]:
    return [
        _lines(
            "Hit ratio by namespace",
            "Reads that found the key, of all reads.",
            (
                f"instance_namespace:cacheserver_hits:ratio_rate1m{{{_NAMESPACE}}}",
                "{{namespace}} {{instance}}",
            ),
            unit="percentunit",
            width=12,
        ),
        _lines(
            "Reads by namespace",
            "A second: hits and misses.",
            (
                f"sum by (namespace) (instance_namespace:cacheserver_reads:rate1m{{{_NAMESPACE}}})",
                "{{namespace}}",
            ),
            unit="ops",
            stack=True,
            width=12,
        ),
    ]


def _latency() -> list[Json]:
    buckets = (
        f"sum by (le) (rate(cacheserver_request_seconds_bucket{{{_INSTANCE}}}[$__rate_interval]))"
    )
    return [
        _heatmap(
            "Requests by their length",
            "Each column is a time, each cell how many requests a second took so long.",
            buckets,
        ),
        _lines(
            "Quantiles",
            "Half, 90 and 99 of 100 requests take no longer. Dots are single slow requests, with their operation.",
            (f"histogram_quantile(0.5, {buckets})", "p50"),
            (f"histogram_quantile(0.9, {buckets})", "p90"),
            (f"histogram_quantile(0.99, {buckets})", "p99"),
            unit="s",
            logarithmic=True,
            exemplars=True,
        ),
        _lines(
            "Slow operations",
            "A second, at or above --slow-threshold. /v1/slowlog has the latest.",
            (
                f"rate(cacheserver_slow_operations_total{{{_INSTANCE}}}[$__rate_interval])",
                "{{instance}}",
            ),
            unit="ops",
        ),
    ]


def _lock_waits() -> list[Json]:
    def rate(metric: str) -> str:
        return f"rate({metric}{{{_NAMESPACE}}}[$__rate_interval])"

    return [
        _heatmap(
            "Waits by their length",
            "Each column is a time, each cell how many waits a second were so long. Every wait is counted.",
            f"sum by (le) ({rate('cacheserver_lock_wait_seconds_bucket')})",
            width=12,
        ),
        _lines(
            "Wait ratio by namespace and lock",
            "Seconds waited, of the seconds spent on all requests. stripe: writers waiting for one another; "
            "namespace_read: writers waiting for an operation on the whole namespace; namespace_write: such "
            "operations waiting.",
            (
                f"instance_namespace_lock:cacheserver_lock_wait:ratio_rate1m{{{_NAMESPACE}}} > 0",
                "{{namespace}} {{lock}} {{instance}}",
            ),
            unit="percentunit",
            line=0.1,
            width=12,
        ),
        _lines(
            "Acquisitions that waited",
            "Of all acquisitions, however short the wait.",
            (
                f"instance_namespace_lock:cacheserver_lock_contended:ratio_rate1m{{{_NAMESPACE}}} > 0",
                "{{namespace}} {{lock}} {{instance}}",
            ),
            unit="percentunit",
        ),
        _lines(
            "Waits",
            "A second. Dots are single waits, with their stripe.",
            (
                f"sum by (namespace, lock) ({rate('cacheserver_lock_wait_seconds_count')}) > 0",
                "{{namespace}} {{lock}}",
            ),
            unit="ops",
        ),
        _lines(
            "Holds, p99",
            "99 of 100 holds are no longer: a sample for stripe, every one for namespace_write.",
            (
                "histogram_quantile(0.99, sum by (namespace, lock, le) "
                f"({rate('cacheserver_lock_hold_seconds_bucket')}))",
                "{{namespace}} {{lock}}",
            ),
            unit="s",
            logarithmic=True,
        ),
    ]


def _stripes() -> list[Json]:
    return [
        _lines(
            "Waits in the busiest stripes",
            "A second. A few stripes far above the others: a hot key. All alike: too few stripes.",
            (
                "topk(10, sum by (namespace, stripe) "
                f"(rate(cacheserver_stripe_contended_total{{{_NAMESPACE}}}[$__rate_interval])))",
                "{{namespace}} {{stripe}}",
            ),
            unit="ops",
            width=12,
        ),
        _bars(
            "Seconds waited a second, by stripe",
            "Of the stripes that made others wait most.",
            "topk(10, sum by (namespace, stripe) "
            f"(rate(cacheserver_stripe_wait_seconds_total{{{_NAMESPACE}}}[$__rate_interval])))",
            "{{namespace}} {{stripe}}",
            unit="s",
            width=12,
        ),
    ]


def _hot_keys() -> list[Json]:
    kinds = {
        "reads": "The part of all reads that goes to one key, from a sample.",
        "writes": "The part of all writes that goes to one key, from a sample.",
        "conflicts": "The part of all conflicts that comes of one key.",
        "waits": "The part of the time waited for locks that one key causes.",
    }
    return [
        _bars(
            kind.capitalize(),
            description,
            f'topk(5, sum by (namespace, key) (cacheserver_hot_key_share{{kind="{kind}", {_NAMESPACE}}}))',
            "{{namespace}} {{key}}",
            unit="percentunit",
            width=6,
        )
        for kind, description in kinds.items()
    ]


def _memory() -> list[Json]:
    memory = _lines(
        "Memory by namespace",
        "Bytes of keys, values and their overhead, against --max-memory.",
        (f"sum by (namespace) (cacheserver_bytes{{{_NAMESPACE}}})", "{{namespace}}"),
        (f"sum(cacheserver_memory_limit_bytes{{{_INSTANCE}}})", "limit"),
        unit="bytes",
        stack=True,
    )
    memory["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": "limit"},
            "properties": [
                {"id": "custom.stacking", "value": {"mode": "none", "group": "A"}},
                {"id": "custom.fillOpacity", "value": 0},
                {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}},
                {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}},
            ],
        }
    ]
    return [
        memory,
        _lines(
            "Entries by namespace",
            "With those whose time is up and that were not swept yet.",
            (f"sum by (namespace) (cacheserver_entries{{{_NAMESPACE}}})", "{{namespace}}"),
            stack=True,
        ),
        _lines(
            "Namespaces",
            "The busiest have figures of their own; the others are (other).",
            (f"cacheserver_namespaces{{{_INSTANCE}}}", "{{instance}}"),
        ),
    ]


def _evictions() -> list[Json]:
    return [
        _lines(
            "Evictions",
            "A second, by the limit that was reached: memory is that of all namespaces together.",
            (
                "sum by (namespace, reason) "
                f"(rate(cacheserver_evictions_total{{{_NAMESPACE}}}[$__rate_interval])) > 0",
                "{{namespace}} {{reason}}",
            ),
            unit="ops",
            width=12,
        ),
        _lines(
            "Expirations",
            "A second.",
            (
                "sum by (namespace) "
                f"(rate(cacheserver_expirations_total{{{_NAMESPACE}}}[$__rate_interval])) > 0",
                "{{namespace}}",
            ),
            unit="ops",
            width=12,
        ),
    ]


def _conflicts() -> list[Json]:
    return [
        _lines(
            "Conflict ratio by namespace",
            "Writes refused because their condition did not hold, of all writes.",
            (
                f"instance_namespace:cacheserver_cas_conflicts:ratio_rate1m{{{_NAMESPACE}}}",
                "{{namespace}} {{instance}}",
            ),
            unit="percentunit",
            width=12,
        ),
        _lines(
            "Writes and conflicts",
            "A second.",
            (
                f"sum by (namespace) (rate(cacheserver_writes_total{{{_NAMESPACE}}}[$__rate_interval]))",
                "{{namespace}} writes",
            ),
            (
                "sum by (namespace) "
                f"(rate(cacheserver_cas_conflicts_total{{{_NAMESPACE}}}[$__rate_interval])) > 0",
                "{{namespace}} conflicts",
            ),
            unit="ops",
            width=12,
        ),
    ]


def _process() -> list[Json]:
    return [
        _lines(
            "Event loop lag",
            "The worst of the last 15 seconds, by thread. Above the line CacheserverLoopLag becomes pending.",
            (
                f"cacheserver_event_loop_lag_seconds{{{_INSTANCE}}}",
                "{{thread}} {{instance}}",
            ),
            unit="s",
            line=0.1,
        ),
        _lines(
            "CPU",
            "CPUs that the process keeps busy.",
            (
                f'rate(process_cpu_seconds_total{{job="cacheserver", {_INSTANCE}}}[$__rate_interval])',
                "{{instance}}",
            ),
        ),
        _lines(
            "Resident memory",
            "Of the process, with the interpreter and what requests in flight take.",
            (
                f'process_resident_memory_bytes{{job="cacheserver", {_INSTANCE}}}',
                "{{instance}}",
            ),
            unit="bytes",
        ),
    ]


def _stat(
    title: str,
    description: str,
    expression: str,
    steps: list[tuple[str, float | None]],
    *,
    unit: str = "short",
) -> Json:
    panel = _panel("stat", title, description, 3, 4)
    panel["targets"] = _targets((expression, title))
    panel["fieldConfig"] = {
        "defaults": {
            "unit": unit,
            "noValue": "-",
            "color": {"mode": "thresholds"},
            "thresholds": _thresholds(*steps),
        },
        "overrides": [],
    }
    panel["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "value",
    }
    return panel


def _lines(
    title: str,
    description: str,
    *queries: tuple[str, str],
    unit: str = "short",
    stack: bool = False,
    logarithmic: bool = False,
    exemplars: bool = False,
    line: float | None = None,
    width: int = 8,
) -> Json:
    """Return curves over time, with a red line across where there is a bound to keep to."""
    panel = _panel("timeseries", title, description, width, 8)
    panel["targets"] = _targets(*queries)
    if exemplars:
        panel["targets"][-1]["exemplar"] = True
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 25 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
    }
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "custom": custom,
    }
    if stack:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    if logarithmic:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    else:
        defaults["min"] = 0
    if line is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
        custom["axisSoftMax"] = 1.5 * line
        defaults["thresholds"] = _thresholds(("green", None), ("red", line))
    panel["fieldConfig"] = {"defaults": defaults, "overrides": []}
    panel["options"] = {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def _heatmap(title: str, description: str, buckets: str, *, width: int = 8) -> Json:
    panel = _panel("heatmap", title, description, width, 8)
    panel["targets"] = _targets((buckets, "{{le}}"))
    panel["targets"][0] |= {"format": "heatmap", "exemplar": True}
    panel["fieldConfig"] = {"defaults": {"custom": {}}, "overrides": []}
    panel["options"] = {
        "calculate": False,
        "cellGap": 0,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "cellValues": {"unit": "ops"},
        "exemplars": {"color": "rgba(50, 115, 220, 0.9)"},
        "filterValues": {"le": 1e-9},  # leaves empty cells empty
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    return panel


def _bars(
    title: str, description: str, expression: str, legend: str, *, unit: str, width: int
) -> Json:
    panel = _panel("bargauge", title, description, width, 8)
    panel["targets"] = _targets((expression, legend))
    panel["targets"][0] |= {"instant": True, "range": False}
    panel["fieldConfig"] = {
        "defaults": {
            "unit": unit,
            "min": 0,
            "noValue": "none",
            "color": {"mode": "continuous-BlYlRd"},
            "thresholds": _thresholds(("blue", None)),
        },
        "overrides": [],
    }
    if unit == "percentunit":
        panel["fieldConfig"]["defaults"]["max"] = 1
    panel["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "gradient",
        "showUnfilled": True,
        "valueMode": "color",
    }
    return panel


def _panel(kind: str, title: str, description: str, width: int, height: int) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "gridPos": {"w": width, "h": height},
    }


def _targets(*queries: tuple[str, str]) -> list[Json]:
    return [
        {
            "refId": "ABCDEF"[position],
            "datasource": _SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "range": True,
        }
        for position, (expression, legend) in enumerate(queries)
    ]


def _thresholds(*steps: tuple[str, float | None]) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": value} for color, value in steps],
    }


def _variables() -> list[Json]:
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
        },
        _variable("instance", "Instance", "label_values(cacheserver_info, instance)"),
        _variable(
            "namespace", "Namespace", f"label_values(cacheserver_entries{{{_INSTANCE}}}, namespace)"
        ),
    ]


def _variable(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(rows: list[tuple[str, list[Json]]]) -> Iterator[Json]:
    """Yield rows and panels with their numbers and places, from left to right and downwards."""
    numbers = count(1)
    y = 0
    for title, panels in rows:
        yield {
            "type": "row",
            "id": next(numbers),
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
        }
        x, y, lowest = 0, y + 1, y + 1
        for panel in panels:
            size = panel["gridPos"]
            if x + size["w"] > _WIDTH:
                x, y = 0, lowest
            panel["id"] = next(numbers)
            panel["gridPos"] = {"x": x, "y": y, **size}
            x, lowest = x + size["w"], max(lowest, y + size["h"])
            yield panel
        y = lowest


def main() -> None:
    """Write the file."""
    DASHBOARD.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
