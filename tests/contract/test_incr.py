"""POST /v1/incr: numbers that are kept as decimal text."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Service
from tests.contract.test_conditions import check_conflict
from tests.support.http_client import Answer

LEAST = -(2**63)
MOST = 2**63 - 1


def incr(service: Service, query: str = "", key: str = "n") -> int:
    """Add to a number. Returns what it is now."""
    answer = service.verb("incr", key, query)
    assert answer.status == 200
    return int(answer.json()["value"])


def max_age(answer: Answer) -> int:
    """The seconds that are left, -1 where the value stays."""
    name, _, seconds = (answer.header("cache-control") or "").partition("=")
    return int(seconds) if name == "max-age" else -1


def test_incr_makes_a_counter(service: Service):
    """A key that is not there counts as 0, so the first incr gives 1; the value is decimal text."""
    answer = service.verb("incr", "n")
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.body == b'{"value":1,"version":%d}' % answer.version
    read = service.get("n")
    assert (read.body, read.version) == (b"1", answer.version)
    assert read.header("content-type") == "text/plain"
    assert max_age(read) == -1


def test_incr_gives_the_new_version(service: Service):
    """Each incr is a write: it has a higher version, which is the ETag of the value from then on."""
    first = service.verb("incr", "n")
    second = service.verb("incr", "n")
    assert second.json() == {"value": 2, "version": second.version}
    assert second.version > first.version
    assert service.get("n").version == second.version


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("", [1, 2, 3]),
        ("?by=5", [5, 10, 15]),
        ("?by=-5", [-5, -10, -15]),
        ("?by=0", [0, 0, 0]),
        ("?initial=10", [11, 12, 13]),
        ("?by=2&initial=-3", [-1, 1, 3]),
        ("?initial=7&by=0", [7, 7, 7]),
        ("?by=%2D1", [-1, -2, -3]),
        ("?by=007", [7, 14, 21]),
        ("?by=-0", [0, 0, 0]),
        (f"?initial={MOST}&by=0", [MOST] * 3),
        (f"?initial={LEAST}&by=0", [LEAST] * 3),
        (f"?initial={MOST}&by={LEAST}", [-1, LEAST - 1, None]),
    ],
)
def test_by_and_initial(service: Service, query: str, values: list[int | None]):
    """A missing key counts as `initial`, and `by` is added, then and each time after."""
    for value in values:
        if value is None or not LEAST <= value <= MOST:
            assert service.verb("incr", "n", query).status == 409
        else:
            assert incr(service, query) == value
            assert service.get("n").body == str(value).encode()


@pytest.mark.parametrize("value", ["0", "41", "-7", str(MOST - 1), str(LEAST)])
def test_incr_of_a_value_that_was_put(service: Service, value: str):
    """Decimal text is a number whoever wrote it, and keeps its content type."""
    service.put("n", value.encode(), [("Content-Type", "text/x-counter")])
    assert incr(service) == int(value) + 1
    assert service.get("n").body == b"%d" % (int(value) + 1)
    assert service.get("n").header("content-type") == "text/x-counter"


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b"x",
            b"1.0",
            b"1e3",
            b" 1",
            b"1 ",
            b"1\n",
            b"+1",
            b"01",
            b"-0",
            b"--1",
            b"0x1",
            b"1_0",
        ),
        *(b"\xd9\xa1", b"\x00", b"null", b'"1"', b"-", b"9" * 100_000),
        *(str(MOST + 1).encode(), str(LEAST - 1).encode()),
    ],
)
def test_incr_of_what_is_no_integer(service: Service, value: bytes):
    """A value that is no decimal integer of 64 bits, as incr itself would write it, gives 409 and stays."""
    written = service.put("n", value)
    for query in ("", "?by=0", "?by=-1&initial=5&ttl=60"):
        answer = service.verb("incr", "n", query)
        assert answer.status == 409
        assert answer.header("content-type") == "application/problem+json"
        assert answer.json()["type"] == "urn:cacheserver:problem:not-an-integer"
        assert "decimal" in answer.json()["detail"]
    read = service.get("n")
    assert (read.body, read.version, max_age(read)) == (value, written.version, -1)


@pytest.mark.parametrize(
    ("value", "by"), [(MOST, 1), (LEAST, -1), (1, MOST), (-2, LEAST), (MOST, MOST), (LEAST, LEAST)]
)
def test_overflow(service: Service, value: int, by: int):
    """A sum beyond 64 bits gives 409 that tells it, and the number stays."""
    written = service.put("n", str(value).encode())
    answer = service.verb("incr", "n", f"?by={by}")
    assert answer.status == 409
    assert answer.json()["type"] == "urn:cacheserver:problem:integer-overflow"
    assert str(value + by) in answer.json()["detail"]
    assert service.get("n").version == written.version


def test_overflow_of_the_initial_value(service: Service):
    """Where the first sum would not fit nothing is made, the namespace neither."""
    assert service.verb("incr", "n", f"?initial={MOST}").status == 409
    assert service.get("n").json()["reason"] == "namespace"


@pytest.mark.parametrize("name", ["by", "initial"])
@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "+1", "1.0", "1e3", "%201", "1%20", "0x1", "1_0", "--1", "-", "null", "%D9%A1"),
        *(str(MOST + 1), str(LEAST - 1), "9" * 30, "-" + "9" * 5000),
    ],
)
def test_bad_numbers(service: Service, name: str, value: str):
    """What is no decimal integer that fits in 64 bits gives 400 that names the parameter."""
    answer = service.verb("incr", "n", f"?{name}={value}")
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:malformed-query"
    assert f"{name}=" in answer.json()["detail"]
    assert service.get("n").status == 404


@pytest.mark.parametrize("query", ["?x=1", "?By=1", "?by=1&by=1", "?ttl=x", "?cas=x", "?by=%zz"])
def test_bad_query(service: Service, query: str):
    """Unknown, repeated and malformed parameters give 400, and nothing is made."""
    assert service.verb("incr", "n", query).status == 400
    assert service.get("n").status == 404


def test_incr_keeps_the_time_to_live(service: Service):
    """Without a ttl a counter expires when it would have, as in Redis and memcached."""
    assert incr(service, "?ttl=1000") == 1
    assert incr(service) == 2
    assert 900 <= max_age(service.get("n")) <= 1000
    service.put("m", b"1", query="?ttl=1000")
    assert incr(service, key="m") == 2
    assert 900 <= max_age(service.get("m")) <= 1000


def test_incr_gives_a_new_time_to_live(service: Service):
    """With a ttl it starts anew; 0 takes it away."""
    incr(service, "?ttl=50")
    incr(service, "?ttl=1000")
    assert 900 <= max_age(service.get("n")) <= 1000
    incr(service, "?ttl=0")
    assert max_age(service.get("n")) == -1


def test_incr_of_an_expired_counter(service: Service):
    """A counter whose time is up begins again."""
    incr(service, "?by=5&ttl=0.2")
    service.within(0.2, lambda: service.get("n").status == 404, "the counter expires")
    assert incr(service) == 1
    assert max_age(service.get("n")) == -1


def test_incr_of_a_deleted_counter(service: Service):
    """A counter that was deleted begins again, with a version higher than ever before."""
    before = service.verb("incr", "n", "?by=5").version
    service.delete("n")
    again = service.verb("incr", "n")
    assert again.json()["value"] == 1
    assert again.version > before


def test_incr_on_condition(service: Service):
    """Conditions count as they do for PUT; one that fails gives 412 and changes nothing."""
    check_conflict(service.verb("incr", "n", "?cas=7"), None)
    check_conflict(service.verb("incr", "n", headers=[("If-Match", "*")]), None)
    assert service.get("n").json()["reason"] == "namespace"
    first = service.verb("incr", "n", "?cas=0")
    check_conflict(service.verb("incr", "n", "?cas=0"), first.version)
    check_conflict(service.verb("incr", "n", headers=[("If-None-Match", "*")]), first.version)
    check_conflict(service.verb("incr", "n", "?cas=7"), first.version)
    second = service.verb("incr", "n", f"?cas={first.version}")
    assert second.json()["value"] == 2
    third = service.verb("incr", "n", headers=[("If-Match", f'"{second.version}"')])
    assert third.json()["value"] == 3
    both = [("If-Match", "*"), ("If-None-Match", f'"{third.version}"')]
    check_conflict(service.verb("incr", "n", headers=both), third.version)
    assert service.get("n").body == b"3"


def test_a_condition_comes_before_the_value(service: Service):
    """On what is no integer a condition that fails gives 412, one that holds 409."""
    version = service.put("n", b"text").version
    check_conflict(service.verb("incr", "n", "?cas=7"), version)
    assert service.verb("incr", "n", f"?cas={version}").status == 409


def check_refused_body(answer: Answer) -> None:
    """A body where none belongs is refused, and the answer says where its words go."""
    assert answer.status == 400
    assert answer.json()["type"] == "urn:cacheserver:problem:malformed-body"
    assert "query" in answer.json()["detail"]


@pytest.mark.parametrize("verb", ["incr", "touch"])
def test_no_body(service: Service, verb: str):
    """Neither incr nor touch takes a body: by=5 that is sent as a form must not add 1."""
    written = service.put("n", b"1")
    check_refused_body(service.verb(verb, "n", body=b"by=5"))
    assert service.get("n").version == written.version
    assert service.verb(verb, "n", body=[]).status in (200, 204)


@pytest.mark.parametrize("verb", ["incr", "touch"])
def test_no_body_in_chunks(service: Service, verb: str):
    """A body in chunks is refused as well, as soon as there is something in it."""
    check_refused_body(service.verb(verb, "n", body=[b"by", b"=5"]))
    assert service.get("n").status == 404


@pytest.mark.parametrize(("key", "status"), [("", 400), ("%FF", 400), ("k" * 1025, 414)])
def test_bad_key(service: Service, key: str, status: int):
    """The key keeps to the same rules as that of the data routes."""
    assert service.verb("incr", key).status == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("verb", ["incr", "append", "touch"])
def test_other_methods(service: Service, verb: str, method: str):
    """Only POST is allowed, and 405 says so."""
    answer = service.request(method, f"/v1/{verb}/{service.namespace}/k")
    assert answer.status == 405
    assert answer.header("allow") == "POST"


def test_incr_is_counted(service: Service):
    """It reads and writes, and is counted as both."""
    service.put("other")
    incr(service)
    incr(service)
    service.verb("incr", "n", "?cas=7")
    figures = service.figures()
    assert (figures["misses"], figures["hits"]) == (1, 2)
    assert (figures["writes"], figures["cas_conflicts"]) == (3, 1)
