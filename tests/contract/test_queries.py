"""Query parameters: what is known, and that nothing else is overlooked."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Service

BAD_CAS = [
    *("", "x", "-1", "+1", "1.0", "1e3", "%201", "1%20", "0x1", "1_0", "null", "%221%22"),
    *("9007199254740992", "9" * 30, "9" * 5000, "%D9%A1", "%C2%B2"),
]
BAD_TTL = [
    *("", "x", "-1", "-0", "+1", "nan", "inf", "Infinity", "1e3", ".5", "5.", "1,5", "0x1", "1_0"),
    *("1%20", "%201", "%D9%A1", "9" * 400),
]


@pytest.mark.parametrize(
    ("method", "query", "known"),
    [
        ("GET", "?cas=1", "takes none"),
        ("GET", "?ttl=1", "takes none"),
        ("HEAD", "?x", None),
        ("PUT", "?tll=60", "cas, ttl"),
        ("PUT", "?TTL=60", "cas, ttl"),
        ("PUT", "?ttl=60&x=1", "cas, ttl"),
        ("PUT", "?=1", "cas, ttl"),
        ("PUT", "?ttl", "ttl"),
        ("DELETE", "?ttl=60", "cas"),
        ("DELETE", "?", ""),
    ],
)
def test_unknown_parameter(service: Service, method: str, query: str, known: str | None):
    """An unknown parameter gives 400 and tells which are known; a lone ? is no parameter."""
    service.put("k", b"one")
    answer = service.request(method, service.kv("k", query))
    if query == "?":
        assert answer.status == 204
        return
    assert answer.status == 400
    if known is not None:
        assert answer.json()["type"] == "urn:cacheserver:problem:malformed-query"
        assert known in answer.json()["detail"]
    assert service.get("k").body == b"one"


@pytest.mark.parametrize("query", ["?ttl=1&ttl=2", "?cas=0&cas=0", "?cas=0&%63as=0"])
def test_repeated_parameter(service: Service, query: str):
    """A parameter that is given twice gives 400, even with the same value."""
    answer = service.put("k", query=query)
    assert answer.status == 400
    assert "twice" in answer.json()["detail"]
    assert service.get("k").status == 404


@pytest.mark.parametrize(
    "value",
    BAD_CAS,
)
def test_bad_cas(service: Service, value: str):
    """A cas that is no decimal integer from 0 to 2**53 - 1 gives 400 to PUT and DELETE."""
    for method in ("PUT", "DELETE"):
        answer = service.request(method, service.kv("k", f"?cas={value}"))
        assert answer.status == 400
        assert answer.json()["type"] == "urn:cacheserver:problem:malformed-query"
        assert "cas" in answer.json()["detail"]


def test_largest_cas(service: Service):
    """The largest version that there can be is a valid one."""
    assert service.put("k", query=f"?cas={2**53 - 1}").status == 412


@pytest.mark.parametrize(
    "value",
    BAD_TTL,
)
def test_bad_ttl(service: Service, value: str):
    """A ttl that is no plain decimal number gives 400, and nothing is stored."""
    answer = service.put("k", query=f"?ttl={value}")
    assert answer.status == 400
    assert "ttl" in answer.json()["detail"]
    assert service.get("k").status == 404


def test_ttl_beyond_ten_years(service: Service):
    """A ttl of more than ten years gives 400: it is a mistake, or it means for ever."""
    answer = service.put("k", query="?ttl=9999999999")
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:invalid-ttl"


@pytest.mark.parametrize("query", ["?%63as=0", "?cas=%30", "?cas=0&", "?&cas=0", "?cas=00"])
def test_other_spellings_of_a_parameter(service: Service, query: str):
    """Names and values may be percent-encoded, and empty pairs and leading zeros do not matter."""
    assert service.put("k", query=query).status == 201
    assert service.put("k", query=query).status == 412


@pytest.mark.parametrize("query", ["?ttl=%", "?ttl=%zz", "?%FF=1"])
def test_malformed_encoding(service: Service, query: str):
    """Broken percent-encoding in a query gives 400."""
    answer = service.put("k", query=query)
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:malformed-target"
