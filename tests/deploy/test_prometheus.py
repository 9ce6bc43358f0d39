"""Debian's real Prometheus scrapes the real server, with the rules and alerts as they are delivered.

The server's locks really wait meanwhile, and all else happens that the dashboard shows.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import batched, chain, count, cycle
from typing import Any, Final, NamedTuple

import pytest

from tests.deploy.prometheus import (
    CONFIG,
    Prometheus,
    copied_config,
    promtool,
    running_prometheus,
)
from tests.support.server import ROOT, RunningServer, running_server, wait_until
from tests.support.threads import start
from tests.support.wire import Wire, request

TOKEN: Final = "a-token-for-prometheus"
WRITERS: Final = 4
ENTRIES: Final = 10_000
"""So many that a change of stripes, which moves them all, holds the namespace for milliseconds."""

DASHBOARD: Final[dict[str, Any]] = json.loads(
    (ROOT / "deploy/grafana/dashboards/cacheserver.json").read_text(encoding="utf-8")
)
TARGETS: Final[list[tuple[str, dict[str, Any]]]] = [
    (panel["title"], target) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]
VARIABLE_QUERIES: Final[list[str]] = [
    variable["query"]["query"]
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] == "query"
]
JSON: Final = "application/json"
NAMES: Final = re.compile(r"\b(?:\w+:\w+:\w+|(?:cacheserver|process)_\w+|up|ALERTS)\b")
"""Names of metrics in an expression, once strings are gone."""


class Scene(NamedTuple):
    """What the tests look at."""

    server: RunningServer
    prometheus: Prometheus
    started: float


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scene]:
    """A server under load, scraped until Prometheus has had a rate of everything."""
    folder = tmp_path_factory.mktemp("prometheus")
    with _server() as server:
        config = copied_config(folder, target=f"127.0.0.1:{server.port}", token=TOKEN)
        with running_prometheus(config, folder) as prometheus, _load(server):
            started = time.time()
            wait_until(
                lambda: prometheus.query("instance:cacheserver_lock_wait:ratio_rate1m > 0"),
                "a wait ratio is recorded",
            )
            yield Scene(server, prometheus, started)


def test_the_waits_for_locks_are_recorded(scene: Scene) -> None:
    """The ratio of the server is above zero, and the sum of those of its namespaces and locks."""
    ratio = "instance:cacheserver_lock_wait:ratio_rate1m"
    parts = "instance_namespace_lock:cacheserver_lock_wait:ratio_rate1m"
    [whole] = scene.prometheus.query(f"{ratio} > 0")
    assert float(whole["value"][1]) > 0
    equal = f"abs({ratio} - on (instance) sum by (instance) ({parts})) < 1e-9"
    wait_until(lambda: scene.prometheus.query(equal), equal)  # between two evaluations they are

    def waited() -> set[tuple[str, str]]:
        labels = [series["metric"] for series in scene.prometheus.query(f"{parts} > 0")]
        return {(each["namespace"], each["lock"]) for each in labels}

    expected = {("counters", "stripe"), ("sessions", "namespace_read")}
    wait_until(lambda: expected <= waited(), f"waits of {expected} are recorded")


def test_the_alert_for_waits_is_pending(scene: Scene) -> None:
    """Above ten per cent it is, as it would fire after five minutes."""
    wait_until(
        lambda: scene.prometheus.alerts().get("CacheserverLockWait") in ("pending", "firing"),
        "CacheserverLockWait is pending",
    )
    [ratio] = scene.prometheus.query("instance:cacheserver_lock_wait:ratio_rate1m")
    assert float(ratio["value"][1]) > 0.1


def test_the_alert_for_refused_writes_is_pending(scene: Scene) -> None:
    """Writes got 507 in a namespace that evicts nothing."""
    wait_until(lambda: "CacheserverFull" in scene.prometheus.alerts(), "CacheserverFull is pending")


def test_no_alert_tells_of_what_did_not_happen(scene: Scene) -> None:
    """The server is up and makes no mistakes."""
    alerts = scene.prometheus.alerts()
    assert not {"CacheserverAbsent", "CacheserverErrors"} & alerts.keys()
    # On a slow machine a single scrape may take longer than the second that it has.
    assert alerts.get("CacheserverDown") != "firing"


def test_prometheus_finds_no_fault_with_any_rule(scene: Scene) -> None:
    """It has evaluated them all without an error, and without a warning."""
    files = ("rules.yml", "alerts.yml")
    expected = sum(
        len(re.findall(r"- (?:record|alert):", (CONFIG / name).read_text())) for name in files
    )

    def evaluated() -> list[Any]:
        groups = scene.prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = wait_until(evaluated, "every rule is evaluated")
    assert len(rules) == expected
    assert [rule for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []


def test_every_metric_that_is_named_exists(scene: Scene) -> None:
    """Prometheus has a series of each name in rules, alerts, dashboard and variables."""
    groups = scene.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    expressions = chain(
        (rule["query"] for rule in rules),
        (target["expr"] for _, target in TARGETS),
        VARIABLE_QUERIES,
    )
    named = set(chain.from_iterable(map(_names, expressions))) | recorded
    assert len(named) > 40
    deadline = time.monotonic() + 20  # a rule over a rule comes a second later
    while (missing := named - scene.prometheus.metric_names()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert missing == set()


@pytest.mark.parametrize(
    ("title", "target"),
    [pytest.param(*each, id=f"{each[0]} {each[1]['refId']}") for each in TARGETS],
)
def test_every_panel_shows_something(scene: Scene, title: str, target: dict[str, Any]) -> None:
    """Each expression gives a series with a number in it; what is worth showing happened."""
    expression = target["expr"]
    for variable, value in {
        "$instance": f"127.0.0.1:{scene.server.port}",
        "$namespace": ".*",
        "$__rate_interval": "15s",
    }.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression

    def numbers() -> list[float]:
        if target.get("instant"):
            series = scene.prometheus.query(expression)
            values = [each["value"][1] for each in series]
        else:
            series = scene.prometheus.query_range(expression, scene.started, time.time())
            values = [value for each in series for _, value in each["values"]]
        return [number for number in map(float, values) if math.isfinite(number)]

    assert wait_until(numbers, f"{title} shows something: {expression}")


def test_variables_offer_what_there_is(scene: Scene) -> None:
    """The instance and its namespaces."""
    for query, expected in zip(
        VARIABLE_QUERIES,
        ({f"127.0.0.1:{scene.server.port}"}, {"counters", "sessions"}),
        strict=True,
    ):
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, query
        selector, label = found.groups()
        selector = selector.replace("$instance", ".*")
        values = scene.prometheus.get(f"label/{label}/values", {"match[]": selector})
        assert expected <= set(values)


@pytest.mark.parametrize("kind", ["reads", "writes", "conflicts", "waits"])
def test_the_hot_key_is_named(scene: Scene, kind: str) -> None:
    """It is read and written most, and most of the conflicts and of the waits come of it."""
    top = f'topk(1, sum by (key) (cacheserver_hot_key_share{{kind="{kind}"}}))'

    def hottest() -> list[str]:
        return [series["metric"]["key"] for series in scene.prometheus.query(top)]

    wait_until(lambda: hottest() == ["hot"], f"the hot key has most of the {kind}")


def test_exemplars_come_with_the_scrape(scene: Scene) -> None:
    """Prometheus, which asks for OpenMetrics, has the stripe of a wait and the name of a slow operation."""
    for family, label in (("lock_wait_seconds", "stripe"), ("request_seconds", "operation")):
        parameters = {
            "query": f"cacheserver_{family}_bucket",
            "start": str(scene.started),
        }

        def exemplars(parameters: dict[str, str] = parameters) -> list[Any]:
            until = {"end": str(time.time() + 1)}
            result: list[Any] = scene.prometheus.get("query_exemplars", parameters | until)
            return result

        found = wait_until(exemplars, f"exemplars of {family}")
        assert all(label in each["labels"] for series in found for each in series["exemplars"])


def test_promtool_finds_no_fault_with_the_metrics(scene: Scene) -> None:
    """Names, types and help texts are as Prometheus would have them."""
    connection = http.client.HTTPConnection(scene.server.host, scene.server.port, timeout=20)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    text = connection.getresponse().read()
    connection.close()
    assert b"cacheserver_lock_wait_seconds_bucket" in text
    assert promtool("check", "metrics", stdin=text) == ""


def _names(expression: str) -> set[str]:
    return set(NAMES.findall(re.sub(r'"[^"]*"', '""', expression)))


# ---- the load ----


@contextmanager
def _server() -> Generator[RunningServer]:
    """Start a server whose threads, where it has the GIL, often change while one holds a lock."""
    program = "import sys; sys.setswitchinterval(1e-5); from cacheserver.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--threads", "4"]
    with running_server(command=command, env={"CACHESERVER_TOKEN": TOKEN}) as server:
        yield server


@contextmanager
def _load(server: RunningServer) -> Generator[None]:
    """Have locks wait, and all else happen that there are metrics of, until the block ends.

    - counters has a single stripe, and one hot key that several connections write;
    - sessions is moved from some stripes to others and back, again and again, while others write it.

    Nobody pipelines: the requests of a batch each count the time of all, and so would outweigh the waits.
    """
    stop = threading.Event()
    with Wire(server) as wire:
        _configure(wire, "counters", stripes=1)
        _configure(wire, "sessions", stripes=64)
        _configure(wire, "small", max_entries=16)
        _configure(wire, "full", max_entries=1, policy="none")
        for numbers in batched(range(ENTRIES), 256, strict=False):
            assert set(_exchange(wire, [_put(f"sessions/{n}") for n in numbers])) == {201}
    running = [
        *(start(lambda: _write(server, stop, "counters/hot"), f"hot {n}") for n in range(WRITERS)),
        *(
            start(lambda: _write(server, stop, "sessions/hot"), f"write {n}")
            for n in range(WRITERS)
        ),
        start(lambda: _read(server, stop, "counters/hot"), "read"),
        start(lambda: _reshape(server, stop), "reshape"),
        start(lambda: _all_else(server, stop), "all else"),
    ]
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.result()


def _write(server: RunningServer, stop: threading.Event, path: str) -> None:
    with Wire(server) as wire:
        while not stop.is_set():
            assert _exchange(wire, [_put(path)])[0] in (201, 204)


def _read(server: RunningServer, stop: threading.Event, path: str) -> None:
    with Wire(server) as wire:
        while not stop.is_set():
            assert _exchange(wire, [_request("GET", f"/v1/kv/{path}")])[0] in (200, 404)


def _reshape(server: RunningServer, stop: threading.Event) -> None:
    with Wire(server) as wire:
        for stripes in cycle((32, 64)):
            if stop.is_set():
                return
            body = json.dumps({"stripes": stripes}).encode()
            target = "/v1/namespaces/sessions"
            assert _exchange(wire, [_request("PATCH", target, body, Content_Type=JSON)]) == [200]


def _all_else(server: RunningServer, stop: threading.Event) -> None:
    """Misses, conflicts, expirations, evictions, and writes that are refused for want of room."""
    numbers = count()
    with Wire(server) as wire:
        while not stop.is_set():
            requests = [
                _request("GET", "/v1/kv/counters/nobody-wrote-it"),
                _request("PUT", "/v1/kv/counters/hot", b"", If_Match='"1"'),
                _request("PUT", f"/v1/kv/sessions/short-{next(numbers) % 100}?ttl=0.01", b""),
                _put(f"small/{next(numbers)}"),
                _put("full/1"),
                _put("full/2"),
            ]
            statuses = [_exchange(wire, [each])[0] for each in requests]
            assert set(statuses) <= {201, 204, 404, 412, 507}, statuses
            assert {404, 412, 507} <= set(statuses)


def _configure(wire: Wire, namespace: str, **config: Any) -> None:
    target = f"/v1/namespaces/{namespace}"
    body = json.dumps(config).encode()
    assert _exchange(wire, [_request("PUT", target, body, Content_Type=JSON)]) == [201]


def _exchange(wire: Wire, requests: list[bytes]) -> list[int]:
    """Send all at once and return the statuses of the answers."""
    wire.send(*requests)
    return [wire.answer().status for _ in requests]


def _put(path: str) -> bytes:
    return _request("PUT", f"/v1/kv/{path}", b"x" * 16)


def _request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    return request(method, target, body, Authorization=f"Bearer {TOKEN}", **headers)
