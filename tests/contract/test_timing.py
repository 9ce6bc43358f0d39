"""`?timing=1`: the answer tells where its time went."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from cacheserver.store.store import Store
from tests.contract.conftest import JSON, Service
from tests.support.contention import made_to_wait
from tests.support.http_client import Answer

_TIMING = re.compile(
    r'lock;dur=(?P<lock>\d+\.\d{3})(?:;desc="(?P<desc>[^"]*)")?, app;dur=(?P<app>\d+\.\d{3})'
)


class Timing(NamedTuple):
    """What Server-Timing tells, in seconds."""

    lock: float
    app: float
    description: str | None


def timing(answer: Answer) -> Timing:
    """What an answer tells of its time."""
    header = answer.header("server-timing")
    assert header is not None
    found = _TIMING.fullmatch(header)
    assert found, header
    return Timing(float(found["lock"]) / 1e3, float(found["app"]) / 1e3, found["desc"])


def test_every_route_tells_its_time(service: Service):
    """Where it is asked for, every answer of a route under /v1/ has it, errors included."""
    namespace, key = f"/v1/namespaces/{service.namespace}", f"{service.namespace}/k"
    cas = b'{"expected_version": 0, "value": 1}'
    requests = (
        ("PUT", f"/v1/kv/{key}", b"1", 201),
        ("GET", f"/v1/kv/{key}", b"", 200),
        ("HEAD", f"/v1/kv/{key}", b"", 200),
        ("POST", f"/v1/cas/{key}", cas, 412),
        ("POST", f"/v1/incr/{key}", b"", 200),
        ("POST", f"/v1/append/{key}", b"1", 200),
        ("POST", f"/v1/touch/{key}", b"", 204),
        ("DELETE", f"/v1/kv/{key}", b"", 204),
        ("GET", f"/v1/kv/{key}", b"", 404),
        ("POST", f"/v1/cas/{service.namespace}/", cas, 400),
        ("PUT", namespace, b"{}", 200),
        ("PATCH", namespace, b"[]", 400),
        ("GET", namespace, b"", 200),
        ("POST", f"{namespace}/clear", b"", 200),
        ("DELETE", namespace, b"", 204),
        ("GET", "/v1/namespaces", b"", 200),
        ("GET", "/v1/info", b"", 200),
        ("GET", "/v1/locks", b"", 200),
        ("GET", "/v1/hotkeys", b"", 200),
        ("GET", "/v1/slowlog", b"", 200),
    )
    for method, target, body, status in requests:
        answer = service.request(method, f"{target}?timing=1", [JSON], body)
        assert answer.status == status, (method, target)
        told = timing(answer)
        assert 0 <= told.lock <= told.app < 20
        for without in ("", "?timing=0"):
            answer = service.request("GET", f"{target}{without}")
            assert answer.header("server-timing") is None


def test_without_contention_nothing_was_waited_for(service: Service):
    """Then the time for locks is 0, and there is nothing to describe."""
    for _ in range(20):
        told = timing(service.put("k", query="?timing=1"))
        assert (told.lock, told.description) == (0, None)


@pytest.mark.parametrize("verb", ["put", "incr", "append", "delete", "cas", "touch"])
def test_a_wait_is_told(inside: tuple[Service, Store], verb: str):
    """Where the key's stripe is taken, the answer tells for how long, which, and what held it.

    `tests.server.test_slow` asks the same of real servers.
    """
    service, store = inside
    requests = {
        "put": ("PUT", "kv", b"2"),
        "incr": ("POST", "incr", b""),
        "append": ("POST", "append", b"2"),
        "delete": ("DELETE", "kv", b""),
        "cas": ("POST", "cas", b'{"expected_version": 7, "value": 1}'),
        "touch": ("POST", "touch", b""),
    }
    method, route, body = requests[verb]
    service.put("k", b"1")
    target = f"/v1/{route}/{service.namespace}/k?timing=1"
    waited = made_to_wait(
        store, service.namespace, "k", lambda: service.request(method, target, [JSON], body)
    )
    told = timing(waited.result)
    assert waited.at_least <= told.lock + 1e-6
    assert told.lock <= told.app <= waited.at_most
    assert told.description == f"stripe {waited.stripe}, write"
    # The next request is not blamed for that wait.
    assert timing(service.put("k", query="?timing=1")).lock == 0


def test_a_wait_in_another_thread_is_told(inside: tuple[Service, Store]):
    """What is done off the event loop counts for its request too."""
    service, store = inside
    service.put("k", b"1")
    target = f"/v1/namespaces/{service.namespace}/clear?timing=1"
    waited = made_to_wait(store, service.namespace, "k", lambda: service.request("POST", target))
    told = timing(waited.result)
    assert waited.at_least <= told.lock + 1e-6
    assert told.lock <= told.app <= waited.at_most
    assert told.description is not None
    assert told.description.startswith("namespace_write")


@pytest.mark.parametrize("value", ["2", "", "true", "01", "%31%31", "1&timing=1"])
def test_a_value_that_is_neither_0_nor_1_is_refused(service: Service, value: str):
    """It gives 400 on every route under /v1/, and nothing is done."""
    for method, target in (
        ("PUT", service.kv("k").decode()),
        ("POST", f"/v1/incr/{service.namespace}/k"),
        ("DELETE", f"/v1/namespaces/{service.namespace}"),
        ("GET", "/v1/namespaces"),
        ("GET", "/v1/info"),
        ("GET", "/v1/locks"),
    ):
        answer = service.request(method, f"{target}?timing={value}")
        assert answer.status == 400, (method, target)
        assert answer.json()["type"] == "urn:cacheserver:problem:malformed-query"
        assert "timing" in answer.json()["detail"]
    assert service.get("k").status == 404


def test_a_parameter_may_be_encoded(service: Service):
    """As every other."""
    assert timing(service.put("k", query="?%74iming=%31&ttl=60")).app > 0
    assert service.get("k").header("cache-control") == "max-age=60" or service.clock is None


def test_other_routes_know_no_timing(service: Service):
    """Beyond /v1/ nothing is told."""
    for target in ("/healthz?timing=1", "/metrics?timing=1", "/ui?timing=1", "/nothing?timing=1"):
        assert service.request("GET", target).header("server-timing") is None
    assert service.request("HEAD", "/ui/events?timing=1").status == 400
