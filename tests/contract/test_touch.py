"""POST /v1/touch: a new time to live for what is there."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Service
from tests.contract.test_conditions import check_conflict
from tests.contract.test_incr import max_age


def test_touch_gives_a_new_time_to_live(service: Service):
    """204 with the version, which stays, as value and content type do."""
    written = service.put("k", b"value", [("Content-Type", "text/x")], "?ttl=50")
    answer = service.verb("touch", "k", "?ttl=1000")
    assert answer.status == 204
    assert answer.version == written.version
    read = service.get("k")
    assert (read.body, read.version) == (b"value", written.version)
    assert read.header("content-type") == "text/x"
    assert 900 <= max_age(read) <= 1000


@pytest.mark.parametrize("query", ["", "?ttl=0", "?ttl=0.0"])
def test_touch_for_ever(service: Service, query: str):
    """0, or no ttl in a namespace without a default, means for ever."""
    service.put("k", query="?ttl=1000")
    assert service.verb("touch", "k", query).status == 204
    assert max_age(service.get("k")) == -1


def test_touch_again_and_again(service: Service):
    """What is touched in time stays; when nobody does so any more it goes."""
    service.put("k", query="?ttl=1000")
    service.verb("touch", "k", "?ttl=0.3")
    service.verb("touch", "k", "?ttl=1000")
    service.verb("touch", "k", "?ttl=0.2")
    service.within(0.2, lambda: service.get("k").status == 404, "the value expires")
    assert service.verb("touch", "k", "?ttl=60").status == 404


def test_touch_of_what_is_not_there(service: Service):
    """404 says what is missing, and makes nothing."""
    answer = service.verb("touch", "k", "?ttl=60")
    assert (answer.status, answer.json()["reason"]) == (404, "namespace")
    service.put("other")
    answer = service.verb("touch", "k", "?ttl=60")
    assert (answer.status, answer.json()["reason"]) == (404, "key")
    assert service.get("k").status == 404


def test_touch_on_condition(service: Service):
    """Conditions count as they do for DELETE; one that fails gives 412 and changes nothing."""
    check_conflict(service.verb("touch", "k", "?cas=7"), None)
    check_conflict(service.verb("touch", "k", headers=[("If-Match", "*")]), None)
    assert service.verb("touch", "k", "?cas=0").status == 404
    version = service.put("k").version
    check_conflict(service.verb("touch", "k", "?ttl=60&cas=7"), version)
    check_conflict(service.verb("touch", "k", "?ttl=60&cas=0"), version)
    none_match = [("If-None-Match", f'"{version}"')]
    check_conflict(service.verb("touch", "k", "?ttl=60", headers=none_match), version)
    assert max_age(service.get("k")) == -1
    assert service.verb("touch", "k", f"?ttl=60&cas={version}").status == 204
    assert service.verb("touch", "k", headers=[("If-Match", f'"{version}"')]).status == 204


@pytest.mark.parametrize("query", ["?ttl=x", "?ttl=", "?ttl=-1", "?ttl=9999999999", "?by=1", "?x"])
def test_bad_query(service: Service, query: str):
    """Unknown and malformed parameters give 400, and the value stays as it is."""
    service.put("k", query="?ttl=1000")
    assert service.verb("touch", "k", query).status == 400
    assert 900 <= max_age(service.get("k")) <= 1000


@pytest.mark.parametrize(("key", "status"), [("", 400), ("%FF", 400), ("k" * 1025, 414)])
def test_bad_key(service: Service, key: str, status: int):
    """The key keeps to the same rules as that of the data routes."""
    assert service.verb("touch", key).status == status


def test_touch_is_no_write(service: Service):
    """It leaves the counts of writes, hits and misses alone."""
    service.put("k")
    before = service.figures()
    service.verb("touch", "k", "?ttl=60")
    service.verb("touch", "gone", "?ttl=60")
    after = service.figures()
    for name in ("writes", "hits", "misses", "entries"):
        assert after[name] == before[name]
