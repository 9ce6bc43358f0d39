"""POST /v1/cas: compare-and-set in JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.contract.conftest import MAX_VALUE_SIZE, Service
from tests.support.http_client import Answer

VALUES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    10**18,
    2**64,
    -(2**63) - 1,
    10**40,
    "",
    "grüße \u2028 \U0001f600 \x00 \x7f",
    [],
    {},
    [1, [2, [3, {"a": None}]]],
    {"b": 1, "a": 2, "": 3},
]


def cas(service: Service, key: str = "k", **fields: Any) -> Answer:
    """Send these fields."""
    return service.cas(key, json.dumps(fields).encode())


def put_json(service: Service, body: bytes, content_type: str = "application/json") -> int:
    """Store text under a content type. Returns its version."""
    return service.put("k", body, [("Content-Type", content_type)]).version


@pytest.mark.parametrize("absent", [None, 0])
def test_create(service: Service, absent: int | None):
    """An expected_version of null or 0 creates a key, once."""
    answer = cas(service, expected_version=absent, value={"n": 1})
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.json() == {"version": answer.version}
    assert cas(service, expected_version=absent, value={"n": 2}).status == 412
    assert service.get("k").json() == {"n": 1}


def test_update(service: Service):
    """The current version replaces the value and gives the new version."""
    version = cas(service, expected_version=None, value=1).version
    answer = cas(service, expected_version=version, value=2)
    assert answer.status == 200
    assert answer.json()["version"] > version
    assert service.get("k").version == answer.json()["version"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_is_kept_as_compact_json(service: Service, value: Any):
    """Any JSON value comes back as it was, written without blanks, as application/json."""
    assert cas(service, expected_version=0, value=value).status == 200
    answer = service.get("k")
    assert answer.header("content-type") == "application/json"
    assert answer.body == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_key_order_is_kept(service: Service):
    """The members of an object stay in their order."""
    service.cas("k", b'{"value": {"z":1,"a":2,"m":3}, "expected_version": null}')
    assert service.get("k").body == b'{"z":1,"a":2,"m":3}'


def test_bytes(service: Service):
    """value_base64 stores bytes, as octets or with a content type."""
    value = bytes(range(256))
    encoded = base64.b64encode(value).decode()
    assert cas(service, "a", expected_version=0, value_base64=encoded).status == 200
    assert service.get("a").body == value
    assert service.get("a").header("content-type") == "application/octet-stream"
    cas(service, "b", expected_version=0, value_base64=encoded, content_type="image/x")
    assert service.get("b").header("content-type") == "image/x"


def test_conflict_gives_current_json(service: Service):
    """A conflict over a JSON value gives its version and the value itself."""
    version = put_json(service, b'{ "n": 123456789012345678901 }')
    answer = cas(service, expected_version=7, value=2)
    assert answer.status == 412
    assert answer.version == version
    assert answer.header("content-type") == "application/problem+json"
    body = answer.json()
    assert body["current_version"] == version
    assert body["current_value"] == {"n": 123456789012345678901}
    assert "current_value_base64" not in body
    assert body["type"] == "urn:cacheserver:problem:condition-failed"


def test_conflict_gives_json_null(service: Service):
    """A current value of null is told apart from none."""
    put_json(service, b"null")
    assert cas(service, expected_version=0, value=1).json()["current_value"] is None


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/ld+JSON"])
def test_conflict_knows_json_by_its_type(service: Service, content_type: str):
    """Parameters, case and +json do not hide that a value is JSON."""
    put_json(service, b"[1]", content_type)
    assert cas(service, expected_version=0, value=1).json()["current_value"] == [1]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\x00\xff", "application/octet-stream"),
        (b"[1]", "text/plain"),
        (b"[1", "application/json"),
        (b"NaN", "application/json"),
        (b'"\xff"', "application/json"),
        (b"", "application/json"),
        (b"[" * 10_000 + b"]" * 10_000, "application/json"),
    ],
)
def test_conflict_gives_bytes_in_base64(service: Service, body: bytes, content_type: str):
    """A current value that is not JSON, or only says so, comes in base64 with its content type."""
    version = put_json(service, body, content_type)
    problem = cas(service, expected_version=0, value=1).json()
    assert problem["current_version"] == version
    assert base64.b64decode(problem["current_value_base64"]) == body
    assert problem["content_type"] == content_type
    assert "current_value" not in problem


def test_conflict_with_a_missing_key(service: Service):
    """A version expected of a key that is not there gives 412 without ETag and value."""
    answer = cas(service, expected_version=7, value=1)
    assert answer.status == 412
    assert answer.header("etag") is None
    assert answer.json()["current_version"] is None
    assert "current_value" not in answer.json()
    assert service.get("k").json()["reason"] == "namespace"


def test_ttl(service: Service):
    """A ttl in seconds, decimals allowed; 0 and null are none."""
    cas(service, "a", expected_version=0, value=1, ttl=100.5)
    assert (service.get("a").header("cache-control") or "").startswith("max-age=")
    for key, ttl in (("b", 0), ("c", None)):
        assert cas(service, key, expected_version=0, value=1, ttl=ttl).status == 200
        assert service.get(key).header("cache-control") == "no-cache"


def test_headers_are_checked_too(service: Service):
    """Conditions in headers are checked beside expected_version."""
    version = service.put("k").version
    body = b'{"expected_version": %d, "value": 1}' % version
    json_type = ("Content-Type", "application/json")
    assert service.cas("k", body, [json_type, ("If-Match", '"7"')]).status == 412
    assert service.cas("k", body, [json_type, ("If-Match", "*")]).status == 200


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"{}", "expected_version"),
        (b'{"value": 1}', "expected_version"),
        (b'{"expected_version": 0}', "value"),
        (b'{"expected_version": 0, "value": 1, "value_base64": ""}', "either"),
        (b'{"expected_version": 0, "value": 1, "tll": 1}', "tll"),
        (b'{"expected_version": 0, "value": 1, "content_type": "a/b"}', "content_type"),
        (b'{"expected_version": true, "value": 1}', "expected_version"),
        (b'{"expected_version": 1.0, "value": 1}', "expected_version"),
        (b'{"expected_version": "1", "value": 1}', "expected_version"),
        (b'{"expected_version": -1, "value": 1}', "expected_version"),
        (b'{"expected_version": 9007199254740992, "value": 1}', "expected_version"),
        (b'{"expected_version": 1%b, "value": 1}' % (b"0" * 400), "expected_version"),
        (b'{"expected_version": 0, "value": 1, "ttl": -1}', "ttl"),
        (b'{"expected_version": 0, "value": 1, "ttl": "1"}', "ttl"),
        (b'{"expected_version": 0, "value": 1, "ttl": true}', "ttl"),
        (b'{"expected_version": 0, "value": 1, "ttl": 1e300}', "ttl"),
        (b'{"expected_version": 0, "value": 1, "ttl": 1%b}' % (b"0" * 400), "ttl"),
        (b'{"expected_version": 0, "value_base64": 1}', "base64"),
        (b'{"expected_version": 0, "value_base64": null}', "base64"),
        (b'{"expected_version": 0, "value_base64": "YQ"}', "base64"),
        (b'{"expected_version": 0, "value_base64": "YQ==\\n"}', "base64"),
        (b'{"expected_version": 0, "value_base64": "Y-_="}', "base64"),
        (b'{"expected_version": 0, "value_base64": "\xc3\xa4"}', "base64"),
        (b'{"expected_version": 0, "value_base64": "", "content_type": ""}', "content_type"),
        (b'{"expected_version": 0, "value_base64": "", "content_type": null}', "content_type"),
        (b'{"expected_version": 0, "value_base64": "", "content_type": "a\\nb"}', "content_type"),
        (
            b'{"expected_version": 0, "value_base64": "", "content_type": "\xc3\xa4"}',
            "content_type",
        ),
        (b"[]", "object"),
        (b"null", "object"),
        (b"1", "object"),
        (b"", "not JSON"),
        (b"{", "line 1, column 2"),
        (b'{"expected_version": 0,\n "value": }', "line 2, column 11"),
        (b"{'a': 1}", "not JSON"),
        (b'{"expected_version": 0, "value": NaN}', "NaN"),
        (b'{"expected_version": 0, "value": -Infinity}', "Infinity"),
        (b'{"expected_version": 0, "value": 1e999}', "double"),
        (b'{"expected_version": 0, "value": "\\ud800"}', "surrogate"),
        (b'{"expected_version": 0, "value": {"\\udc00": 1}}', "surrogate"),
        (b'{"expected_version": 0, "value": "\xff"}', "UTF-8"),
        (b'\xef\xbb\xbf{"expected_version": 0, "value": 1}', "not JSON"),
        ('{"expected_version": 0, "value": 1}'.encode("utf-16"), "UTF-8"),
        (b'{"expected_version": 0, "value": ' + b"[" * 600 + b"]" * 600 + b"}", "deep"),
        (b'{"expected_version": 0, "value": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", "deep"),
        (b"[" * 60_000, ""),
        (b'{"expected_version": 0, "value": 1%b}' % (b"0" * 5000), "number"),
    ],
)
def test_bad_body(service: Service, body: bytes, hint: str):
    """A body that is not as it should be gives 400 that says what is wrong, and stores nothing."""
    answer = service.cas("k", body)
    assert answer.status == 400
    assert answer.header("content-type") == "application/problem+json"
    assert hint in answer.json()["detail"]
    assert service.get("k").status == 404


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json, text/plain", 415),
        ("application/problem+json", 415),
        ("application/json", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ('application/json ; charset="utf-8"', 200),
        ("application/json;", 200),
    ],
)
def test_media_type(service: Service, content_type: str | None, status: int):
    """The body must be said to be JSON, in UTF-8 if a charset is named; else 415."""
    headers = [] if content_type is None else [("Content-Type", content_type)]
    answer = service.cas("k", b'{"expected_version": 0, "value": 1}', headers)
    assert answer.status == status


def test_query_is_refused(service: Service):
    """POST /v1/cas knows no query parameters."""
    body = b'{"expected_version": 0, "value": 1}'
    answer = service.cas("k?ttl=1", body)
    assert answer.status == 400
    assert "takes none" in answer.json()["detail"]


def test_largest_value_in_base64(service: Service):
    """A value of the largest size fits in base64 too; one byte more gives 413."""
    largest = base64.b64encode(b"x" * MAX_VALUE_SIZE).decode()
    assert cas(service, expected_version=0, value_base64=largest).status == 200
    too_large = base64.b64encode(b"x" * (MAX_VALUE_SIZE + 1)).decode()
    answer = cas(service, "l", expected_version=0, value_base64=too_large)
    assert answer.status == 413
    assert answer.json()["type"] == "urn:cacheserver:problem:too-large"


@pytest.mark.parametrize(("target", "status"), [("", 400), ("%FF", 400), ("k" * 1025, 414)])
def test_bad_key(service: Service, target: str, status: int):
    """The key of POST /v1/cas keeps to the same rules as that of the data routes."""
    assert service.cas(target, b'{"expected_version": 0, "value": 1}').status == status
