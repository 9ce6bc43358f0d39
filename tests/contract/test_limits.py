"""Namespaces that want a condition, and values for which there is no room."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Service
from tests.contract.test_conditions import check_conflict
from tests.support.http_client import Answer

WRITES = ("put", "delete", "incr", "append")


def write(service: Service, verb: str, query: str = "", if_match: str | None = None) -> Answer:
    """Write key k in one of the ways that there are."""
    headers = [] if if_match is None else [("If-Match", if_match)]
    if verb == "put":
        return service.put("k", b"1", headers, query)
    if verb == "delete":
        return service.delete("k", headers, query)
    return service.verb(verb, "k", query, headers, b"1" if verb == "append" else b"")


def check_kind(answer: Answer, status: int, slug: str) -> str:
    """An error of this kind. Returns its detail."""
    assert answer.status == status
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json()["type"] == f"urn:cacheserver:problem:{slug}"
    return str(answer.json()["detail"])


@pytest.mark.parametrize("verb", WRITES)
def test_a_condition_is_required(service: Service, verb: str):
    """Where require_cas is set a write without a condition gives 428 that says what to send."""
    version = service.put("k", b"1").version
    service.configure(require_cas=True)
    detail = check_kind(write(service, verb), 428, "condition-required")
    assert "If-Match" in detail
    assert "If-None-Match" in detail
    assert service.get("k").version == version
    assert service.figures()["writes"] == 1


@pytest.mark.parametrize("verb", WRITES)
def test_a_condition_is_enough(service: Service, verb: str):
    """Any condition will do, in a header or in the query; one that fails gives 412."""
    service.put("k", b"1")
    service.configure(require_cas=True)
    version = service.get("k").version
    check_conflict(write(service, verb, "?cas=7"), version)
    check_conflict(write(service, verb, if_match='"7"'), version)
    assert write(service, verb, f"?cas={version}").status in (200, 204)
    if verb != "delete":
        assert write(service, verb, if_match="*").status in (200, 204)


@pytest.mark.parametrize("verb", ["put", "incr", "append"])
def test_a_condition_is_required_to_create(service: Service, verb: str):
    """A key that is not there is no exception; create-only is a condition."""
    service.configure(require_cas=True)
    check_kind(write(service, verb), 428, "condition-required")
    assert service.get("k").status == 404
    assert write(service, verb, "?cas=0").status in (200, 201)


def test_what_needs_no_condition(service: Service):
    """JSON compare-and-set has one always; reading, touching and clearing are no writes of a key."""
    service.configure(require_cas=True)
    assert service.cas("k", b'{"expected_version": null, "value": 1}').status == 200
    assert service.get("k").status == 200
    assert service.verb("touch", "k", "?ttl=60").status == 204
    assert service.request("POST", f"/v1/namespaces/{service.namespace}/clear").status == 200
    service.configure()
    assert service.put("k").status == 201


def test_malformed_comes_before_a_missing_condition(service: Service):
    """400, 413 and 414 win over 428."""
    service.configure(require_cas=True)
    assert service.put("k", query="?x=1").status == 400
    assert service.put("k" * 1025).status == 414
    assert service.put("k", [b"x" * 200_001]).status == 413
    assert service.verb("incr", "k", "?ttl=9999999999").status == 400


@pytest.mark.parametrize("verb", ["put", "append", "cas"])
def test_what_can_never_fit(service: Service, verb: str):
    """A value larger than all that the namespace may hold gives 413, whatever the policy; others stay."""
    service.configure(max_bytes=10_000)
    service.put("other", b"x" * 1000)
    if verb == "cas":
        answer = service.cas("k", b'{"expected_version": 0, "value": "%b"}' % (b"x" * 20_000))
    elif verb == "append":
        answer = service.verb("append", "k", body=b"x" * 20_000)
    else:
        answer = service.put("k", b"x" * 20_000)
    detail = check_kind(answer, 413, "never-fits")
    assert "10000" in detail
    assert service.get("k").status == 404
    assert service.get("other").status == 200
    assert service.put("k", b"x" * 2000).status == 201


def test_an_append_that_can_never_fit(service: Service):
    """What was appended so far stays, and nothing else has to go for it."""
    service.configure(max_bytes=10_000)
    service.put("other", b"x" * 1000)
    before = service.verb("append", "k", body=b"x" * 5000)
    check_kind(service.verb("append", "k", body=b"x" * 5000), 413, "never-fits")
    assert service.get("k").version == before.version
    assert service.get("other").status == 200


@pytest.mark.parametrize("verb", ["put", "append", "incr", "cas"])
def test_full(service: Service, verb: str):
    """Where the policy is none a full namespace gives 507; what makes room is allowed."""
    service.configure(max_entries=2, policy="none")
    service.put("a", b"1")
    service.put("b", b"1")

    def more() -> Answer:
        if verb == "put":
            return service.put("k", b"1")
        if verb == "cas":
            return service.cas("k", b'{"expected_version": 0, "value": 1}')
        return service.verb(verb, "k", body=b"1" if verb == "append" else b"")

    check_kind(more(), 507, "full")
    assert service.get("k").status == 404
    assert service.put("a", b"2").status == 204
    assert service.verb("incr", "a").status == 200
    service.delete("b")
    assert more().status in (200, 201)


def test_full_of_bytes(service: Service):
    """So does one whose bytes are used up; a smaller value still fits."""
    service.configure(max_bytes=40_000, policy="none")
    assert service.put("a", b"x" * 15_000).status == 201
    assert service.put("b", b"x" * 15_000).status == 201
    check_kind(service.put("c", b"x" * 15_000), 507, "full")
    check_kind(service.verb("append", "a", body=b"x" * 12_000), 507, "full")
    assert service.put("a", b"x" * 1000).status == 204
    assert service.put("c", b"x" * 15_000).status == 201
