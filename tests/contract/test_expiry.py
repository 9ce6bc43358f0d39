"""Values with a time to live."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Service


def max_age(service: Service, key: str) -> int:
    """The seconds that a key's Cache-Control tells."""
    cache_control = service.get(key).header("cache-control") or ""
    name, _, seconds = cache_control.partition("=")
    assert name == "max-age"
    return int(seconds)


def test_ttl_is_told_in_whole_seconds(service: Service):
    """A value with a ttl has a max-age of the whole seconds that are left."""
    assert service.put("k", query="?ttl=100.9").status == 201
    assert 95 <= max_age(service, "k") <= 100


def test_value_expires(service: Service):
    """A value is gone when its ttl is over, and the key can be created again with a new version."""
    written = service.put("k", query="?ttl=0.3")
    assert written.status == 201
    service.within(0.3, lambda: service.get("k").status == 404, "the value expires")
    again = service.put("k", query="?cas=0")
    assert again.status == 201
    assert again.version > written.version


def test_expired_version_matches_no_more(service: Service):
    """A compare-and-set with the version of an expired value gives 412 without an ETag."""
    version = service.put("k", query="?ttl=0.2").version
    service.within(0.2, lambda: service.get("k").status == 404, "the value expires")
    answer = service.put("k", query=f"?cas={version}")
    assert answer.status == 412
    assert answer.header("etag") is None
    assert answer.json()["current_version"] is None


def test_delete_of_an_expired_key(service: Service):
    """DELETE of a value that has expired gives 404."""
    service.put("k", query="?ttl=0.2")
    service.within(0.2, lambda: service.get("k").status == 404, "the value expires")
    assert service.delete("k").status == 404


@pytest.mark.parametrize("query", ["", "?ttl=0", "?ttl=0.0"])
def test_value_without_ttl_stays(service: Service, query: str):
    """A ttl of 0, or none where the namespace has no default, means for ever."""
    service.put("k", query=query)
    assert service.get("k").header("cache-control") == "no-cache"


def test_put_without_ttl_takes_the_ttl_away(service: Service):
    """A write without a ttl over a value that has one stays."""
    service.put("k", query="?ttl=100")
    service.put("k")
    assert service.get("k").header("cache-control") == "no-cache"


def test_put_gives_a_new_ttl(service: Service):
    """A write over a value with a ttl starts a new one."""
    service.put("k", query="?ttl=50")
    service.put("k", query="?ttl=1000")
    assert max_age(service, "k") > 900


def test_not_modified_tells_the_seconds_left(service: Service):
    """A 304 has the max-age that the 200 would have."""
    version = service.put("k", query="?ttl=100").version
    answer = service.get("k", [("If-None-Match", f'"{version}"')])
    assert answer.status == 304
    assert (answer.header("cache-control") or "").startswith("max-age=")
