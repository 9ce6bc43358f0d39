"""POST /v1/append: values that grow at their end."""

from __future__ import annotations

import pytest

from tests.contract.conftest import JSON, MAX_VALUE_SIZE, Service
from tests.contract.test_conditions import check_conflict
from tests.contract.test_incr import max_age


def test_append_makes_a_value(service: Service):
    """A key that is not there is made, with the request's content type."""
    answer = service.verb("append", "k", headers=[("Content-Type", "text/x-log")], body=b"one")
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.body == b'{"length":3,"version":%d}' % answer.version
    read = service.get("k")
    assert (read.body, read.version) == (b"one", answer.version)
    assert read.header("content-type") == "text/x-log"
    assert max_age(read) == -1


def test_append_without_a_content_type(service: Service):
    """What is made without a type is an octet stream, as with PUT."""
    service.verb("append", "k", body=b"x")
    assert service.get("k").header("content-type") == "application/octet-stream"


def test_append_to_a_value(service: Service):
    """The body goes behind what is there, whose content type stays; the length is that of all."""
    written = service.put("k", b"one", [("Content-Type", "text/x-log")])
    answer = service.verb("append", "k", headers=[JSON], body=b"\x00two")
    assert answer.json() == {"length": 7, "version": answer.version}
    assert answer.version > written.version
    read = service.get("k")
    assert read.body == b"one\x00two"
    assert read.header("content-type") == "text/x-log"


@pytest.mark.parametrize("body", [b"", [b""], []])
def test_append_of_nothing(service: Service, body: bytes | list[bytes]):
    """An empty body makes an empty value, and is a write like any other."""
    first = service.verb("append", "k", body=body)
    second = service.verb("append", "k", body=body)
    assert (first.json()["length"], second.json()["length"]) == (0, 0)
    assert second.version > first.version
    assert service.get("k").body == b""


def test_append_of_chunks(service: Service):
    """A body may come in chunks, without a length."""
    service.verb("append", "k", body=[b"a", b"bc"])
    assert service.verb("append", "k", body=[b"d", b"e" * 5000]).json()["length"] == 5004
    assert service.get("k").body == b"abcd" + b"e" * 5000


def test_append_up_to_the_largest_value(service: Service):
    """The value may grow to the largest size; beyond it 413 changes nothing."""
    half = MAX_VALUE_SIZE // 2
    service.verb("append", "k", body=b"x" * half)
    full = service.verb("append", "k", body=b"y" * (MAX_VALUE_SIZE - half))
    assert full.json()["length"] == MAX_VALUE_SIZE
    answer = service.verb("append", "k", body=b"z")
    assert answer.status == 413
    assert answer.json()["type"] == "urn:cacheserver:problem:too-large"
    assert str(MAX_VALUE_SIZE) in answer.json()["detail"]
    assert service.get("k").version == full.version


def test_append_of_too_much_at_once(service: Service):
    """A body that is too large by itself gives 413 before any of it is asked for."""
    target = f"/v1/append/{service.namespace}/k"
    answer = service.client.announce("POST", target, MAX_VALUE_SIZE + 1)
    assert answer.status == 413
    assert answer.header("connection") == "close"
    assert service.get("k").status == 404


def test_append_keeps_the_time_to_live(service: Service):
    """Without a ttl the value expires when it would have; with one it starts anew, 0 being never."""
    service.verb("append", "k", "?ttl=1000", body=b"a")
    service.verb("append", "k", body=b"b")
    assert 900 <= max_age(service.get("k")) <= 1000
    service.verb("append", "k", "?ttl=5000", body=b"c")
    assert 4900 <= max_age(service.get("k")) <= 5000
    service.verb("append", "k", "?ttl=0", body=b"d")
    assert max_age(service.get("k")) == -1
    assert service.get("k").body == b"abcd"


def test_append_to_an_expired_value(service: Service):
    """A value whose time is up is not there any more."""
    service.put("k", b"old", query="?ttl=0.2")
    service.within(0.2, lambda: service.get("k").status == 404, "the value expires")
    assert service.verb("append", "k", body=b"new").json()["length"] == 3


def test_append_on_condition(service: Service):
    """Conditions count as they do for PUT; one that fails gives 412 and changes nothing."""
    check_conflict(service.verb("append", "k", "?cas=7", body=b"x"), None)
    assert service.get("k").json()["reason"] == "namespace"
    first = service.verb("append", "k", "?cas=0", body=b"1")
    check_conflict(service.verb("append", "k", "?cas=0", body=b"x"), first.version)
    create_only = [("If-None-Match", "*")]
    check_conflict(service.verb("append", "k", headers=create_only, body=b"x"), first.version)
    second = service.verb("append", "k", f"?cas={first.version}", body=b"2")
    third = service.verb("append", "k", headers=[("If-Match", f'"{second.version}"')], body=b"3")
    assert third.status == 200
    check_conflict(service.verb("append", "k", f"?cas={first.version}", body=b"x"), third.version)
    assert service.get("k").body == b"123"


def test_a_condition_comes_before_the_length_of_the_sum(service: Service):
    """Where the sum is too large a condition that fails gives 412, one that holds 413."""
    version = service.put("k", b"x" * MAX_VALUE_SIZE).version
    check_conflict(service.verb("append", "k", "?cas=7", body=b"x"), version)
    assert service.verb("append", "k", f"?cas={version}", body=b"x").status == 413


def test_append_of_a_coded_body(service: Service):
    """A body with a content coding gives 415, as with PUT: the coding would be forgotten."""
    headers = [("Content-Encoding", "gzip")]
    assert service.verb("append", "k", headers=headers, body=b"x").status == 415
    assert service.get("k").status == 404


@pytest.mark.parametrize("query", ["?by=1", "?x=1", "?ttl=1&ttl=1", "?ttl=x", "?cas=x"])
def test_bad_query(service: Service, query: str):
    """Unknown, repeated and malformed parameters give 400, and nothing is made."""
    assert service.verb("append", "k", query, body=b"x").status == 400
    assert service.get("k").status == 404


def test_bad_content_type(service: Service):
    """A content type that could not be kept gives 400, also where it would not be."""
    service.put("k", b"x")
    headers = [("Content-Type", "a\tb")]
    assert service.verb("append", "k", headers=headers, body=b"x").status == 400
    assert service.get("k").body == b"x"


@pytest.mark.parametrize(("key", "status"), [("", 400), ("%FF", 400), ("k" * 1025, 414)])
def test_bad_key(service: Service, key: str, status: int):
    """The key keeps to the same rules as that of the data routes."""
    assert service.verb("append", key, body=b"x").status == status


def test_one_key_by_any_spelling(service: Service):
    """The key of a verb is percent-decoded as that of the data routes is."""
    service.verb("append", "a%2Fb", body=b"1")
    service.verb("append", "a/%62", body=b"2")
    service.verb("incr", "%6E")
    assert service.get("a/b").body == b"12"
    assert service.get("n").body == b"1"
