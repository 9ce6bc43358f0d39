"""The routes that tell about the server: liveness, readiness, information, metrics."""

from __future__ import annotations

import platform
import re
import sys

import pytest

import cacheserver
from tests.contract.conftest import Service
from tests.support.planes import LIVE


def samples(text: str) -> dict[str, float]:
    """Prometheus text as a dict from `name{labels}` to value."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def scrape(service: Service) -> dict[str, float]:
    """All samples as of now."""
    answer = service.request("GET", "/metrics")
    assert answer.status == 200
    return samples(answer.body.decode())


@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/v1/info", "/metrics"])
def test_head(service: Service, target: str):
    """HEAD gives the status and the type of GET."""
    head, get = service.request("HEAD", target), service.request("GET", target)
    assert head.status == get.status == 200
    assert head.header("content-type") == get.header("content-type")


def test_health_and_readiness(service: Service):
    """A server that serves is alive and ready."""
    assert service.request("GET", "/healthz").json() == {"status": "ok"}
    assert service.request("GET", "/readyz").json() == {"status": "ready"}


def test_info(service: Service):
    """Information tells versions, interpreter, GIL, threads and how long the server runs."""
    info = service.request("GET", "/v1/info").json()
    assert info["version"] == cacheserver.__version__
    assert info["python"] == platform.python_version()
    assert info["gil_enabled"] is sys._is_gil_enabled()
    assert info["threads"] == (2 if service.way in LIVE else 1)
    assert info["fast_path"] is (service.way == "live")
    assert info["uptime_seconds"] >= 0
    assert info["state"] == "serving"


def test_metrics_of_a_namespace(service: Service):
    """Hits, misses, writes, conflicts, entries, bytes and lock acquisitions are counted."""
    service.put("k", b"x" * 1000)
    service.put("k", b"x" * 1000, query="?cas=0")
    service.get("k")
    service.get("k")
    service.get("gone")
    now = scrape(service)
    label = f'{{namespace="{service.namespace}"}}'
    assert now[f"cacheserver_hits_total{label}"] == 2
    assert now[f"cacheserver_misses_total{label}"] == 1
    assert now[f"cacheserver_writes_total{label}"] == 1
    assert now[f"cacheserver_cas_conflicts_total{label}"] == 1
    assert now[f"cacheserver_expirations_total{label}"] == 0
    assert now[f"cacheserver_entries{label}"] == 1
    assert 1000 < now[f"cacheserver_bytes{label}"] < 2000
    lock = f'{{lock="stripe",namespace="{service.namespace}"}}'
    assert now[f"cacheserver_lock_acquisitions_total{lock}"] == 3  # writes, and the first hit
    assert now[f"cacheserver_lock_wait_seconds_count{lock}"] == 0


def test_metrics_of_requests(service: Service):
    """Every answered request is counted by method and status, and timed."""
    counted = 'cacheserver_requests_total{method="DELETE",status="404"}'
    before = scrape(service)
    for _ in range(5):
        service.delete("k")
    after = scrape(service)
    assert after[counted] - before.get(counted, 0) == 5
    timed = "cacheserver_request_seconds_count"
    assert after[timed] - before[timed] == 6  # and the first scrape


def test_metrics_have_few_labels(service: Service):
    """Methods that nobody uses here are counted as one."""
    counted = 'cacheserver_requests_total{method="other",status="405"}'
    before = scrape(service).get(counted, 0)
    for method in ("PROPFIND", "LOCK"):
        assert service.request(method, "/v1/kv/ns/k").status == 405
    assert scrape(service)[counted] - before == 2


def test_metrics_tell_what_runs(service: Service):
    """The info metric tells version, interpreter and GIL; the process's metrics are there too."""
    now = scrape(service)
    gil = "on" if sys._is_gil_enabled() else "off"
    expected = {
        "version": cacheserver.__version__,
        "python": platform.python_version(),
        "gil": gil,
    }
    name = next(name for name in now if name.startswith("cacheserver_info{"))
    assert dict(re.findall(r'(\w+)="([^"]*)"', name)) == expected
    assert "process_resident_memory_bytes" in now or sys.platform != "linux"


def test_metrics_as_openmetrics(service: Service):
    """A client that asks for OpenMetrics gets it."""
    answer = service.request(
        "GET", "/metrics", [("Accept", "application/openmetrics-text; version=1.0.0")]
    )
    assert (answer.header("content-type") or "").startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
