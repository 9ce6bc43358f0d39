"""Which keys and namespaces there are, and how they are written in a request target."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.contract.conftest import Service

# What is written in the target, and another way of writing the same key.
SPELLINGS = [
    ("a/b", "a%2Fb"),
    ("a/b", "a%2fb"),
    ("k", "%6B"),
    ("a b".replace(" ", "%20"), "%61%20b"),
    ("a+b", "a%2Bb"),
    ("~", "%7e"),
    ("gr%C3%BC%C3%9Fe", "gr%c3%bc%c3%9fe"),
]

# No two of these are the same key.
DIFFERENT = [
    "a",
    "A",
    "a/",
    "a//",
    "a/b",
    "a//b",
    "/a",
    "//a",
    "a%20b",
    "a+b",
    "a%00b",
    "a%00",
    "%00",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "%2E%2E/a",
    "%25",
    "%2520",
    "a%3Fb",
    "a%23b",
    "a%26b",
    "a;b=c",
    "a:b@c",
    "%C3%A4",
    "a%CC%88",
    "%F0%9F%98%80",
    "%EF%BB%BF",
    "%7F",
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_two_spellings_of_one_key(service: Service, one: str, other: str):
    """Percent-encoding is undone once, so both spellings name the same key."""
    service.put(one, b"it")
    assert service.get(other).body == b"it"


def test_keys_are_not_normalised(service: Service):
    """Slashes, dots, plus signs and case are kept: keys that differ in them are different keys."""
    for key in DIFFERENT:
        assert service.put(key, key.encode()).status == 201, key
    for key in DIFFERENT:
        assert service.get(key).body == key.encode()


@pytest.mark.parametrize("key", ["a%0Ab", "a%0A", "%0D%0A"])
def test_keys_with_line_breaks(service: Service, key: str):
    """A key may hold line breaks; Starlette's `Mount` finds nothing for a line feed."""
    stored = service.put(key, b"it").status
    if service.way == "mounted":
        assert stored == 404
        return
    assert stored == 201
    assert service.get(key).body == b"it"


@pytest.mark.parametrize("key", ["k" * 1024, "%6B" * 1024, "%C3%A4" * 512, "/" * 1024])
def test_longest_key(service: Service, key: str):
    """A key of 1,024 bytes in UTF-8 is taken, however it is spelled."""
    assert service.put(key, b"it").status == 201
    assert service.get(key).body == b"it"


@pytest.mark.parametrize("key", ["k" * 1025, "%6B" * 1025, "%C3%A4" * 512 + "k", "k" * 5000])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_key_too_long(service: Service, method: str, key: str):
    """A key of more than 1,024 bytes gives 414 to every method."""
    answer = service.request(method, service.kv(key))
    assert answer.status == 414
    assert answer.json()["type"] == "urn:cacheserver:problem:key-too-long"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("", "invalid-key"),
        ("%", "malformed-target"),
        ("%2", "malformed-target"),
        ("%zz", "malformed-target"),
        ("a%2gb", "malformed-target"),
        ("%u0041", "malformed-target"),
        ("%C3", "malformed-target"),
        ("%FF", "malformed-target"),
        ("%C0%AF", "malformed-target"),
        ("%ED%A0%80", "malformed-target"),
        ("%F4%90%80%80", "malformed-target"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_malformed_key(service: Service, method: str, key: str, kind: str):
    """An empty key, broken percent-encoding and what is not UTF-8 give 400 to every method."""
    answer = service.request(method, service.kv(key))
    assert answer.status == 400
    assert answer.json()["type"] == f"urn:cacheserver:problem:{kind}"


def test_raw_bytes_beyond_ascii(service: Service):
    """A target with bytes that had to be percent-encoded gives 400."""
    assert service.get("grüße".encode()).status == 400


@pytest.mark.parametrize("namespace", ["a", "Z9._-", "x" * 64, "...", "%61%2D"])
def test_valid_namespace(service: Service, namespace: str):
    """A namespace is 1 to 64 of a few characters, percent-encoded or not."""
    target = f"/v1/kv/{namespace}/{service.namespace}"
    assert service.request("PUT", target, (), b"it").status == 201
    assert service.request("GET", target).body == b"it"


@pytest.mark.parametrize(
    "namespace", ["", "x" * 65, "a%20b", "a%2Fb", "a:b", "%C3%A4", "a%0D", "%00", "a+b"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_invalid_namespace(service: Service, method: str, namespace: str):
    """Any other namespace gives 400 to every method."""
    answer = service.request(method, f"/v1/kv/{namespace}/k")
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:invalid-namespace"


def test_key_like_a_route(service: Service):
    """A key may look like another route, or like the prefix under which the app is mounted."""
    for key in ("v1/kv/a/b", "healthz", "api/v1", "cache/v1/kv/a/b", quote("an outer app/cache")):
        assert service.put(key, key.encode()).status == 201
        assert service.get(key).body == key.encode()
