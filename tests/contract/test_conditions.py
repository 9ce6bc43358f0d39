"""Conditional requests: compare-and-set by headers and by `?cas=`, and GET with validators."""

from __future__ import annotations

import pytest

from tests.contract.conftest import Service
from tests.support.http_client import Answer

UNKNOWN = 7  # a version that no key ever had


def check_conflict(answer: Answer, version: int | None) -> None:
    """A failed compare-and-set tells the current version, in the ETag and in the body."""
    assert answer.status == 412
    body = answer.json()
    assert body["type"] == "urn:cacheserver:problem:condition-failed"
    assert body["current_version"] == version
    assert answer.header("etag") == (None if version is None else f'"{version}"')


def test_put_if_match_with_the_version(service: Service):
    """PUT with the current version in If-Match replaces the value."""
    version = service.put("k", b"one").version
    answer = service.put("k", b"two", [("If-Match", f'"{version}"')])
    assert answer.status == 204
    assert answer.version > version


def test_put_if_match_with_another_version(service: Service):
    """PUT with another version in If-Match changes nothing and tells the current version."""
    version = service.put("k", b"one").version
    check_conflict(service.put("k", b"two", [("If-Match", f'"{UNKNOWN}"')]), version)
    assert service.get("k").body == b"one"
    assert service.get("k").version == version


@pytest.mark.parametrize("condition", [f'"{UNKNOWN}"', "*"])
def test_put_if_match_of_a_missing_key(service: Service, condition: str):
    """PUT with If-Match to a key that is not there gives 412 without an ETag, and makes nothing."""
    check_conflict(service.put("k", b"", [("If-Match", condition)]), None)
    assert service.get("k").json()["reason"] == "namespace"
    service.put("other")
    check_conflict(service.put("k", b"", [("If-Match", condition)]), None)
    assert service.get("k").status == 404


def test_put_if_match_of_a_deleted_key(service: Service):
    """The version that a key had before it was deleted matches no more."""
    version = service.put("k").version
    service.delete("k")
    check_conflict(service.put("k", b"", [("If-Match", f'"{version}"')]), None)


def test_old_version_never_matches_again(service: Service):
    """After delete and create the old version does not match, though the value is the same."""
    old = service.put("k", b"same").version
    service.delete("k")
    new = service.put("k", b"same").version
    check_conflict(service.put("k", b"", [("If-Match", f'"{old}"')]), new)


def test_put_if_none_match_star_creates(service: Service):
    """PUT with If-None-Match: * creates a key, once."""
    create_only = [("If-None-Match", "*")]
    created = service.put("k", b"one", create_only)
    assert created.status == 201
    check_conflict(service.put("k", b"two", create_only), created.version)
    assert service.get("k").body == b"one"


def test_put_if_match_star(service: Service):
    """If-Match: * asks only that the key is there."""
    service.put("k")
    assert service.put("k", b"two", [("If-Match", "*")]).status == 204


def test_put_if_none_match_version(service: Service):
    """If-None-Match with versions lets a write pass unless the key has one of them."""
    version = service.put("k").version
    check_conflict(service.put("k", b"", [("If-None-Match", f'"{version}"')]), version)
    assert service.put("k", b"", [("If-None-Match", f'"{UNKNOWN}"')]).status == 204
    assert service.put("new", b"", [("If-None-Match", f'"{UNKNOWN}"')]).status == 201


@pytest.mark.parametrize(
    ("template", "matches"),
    [
        ('"{v}"', True),
        (' "7" , "{v}" ', True),
        ('"7",,\t"{v}",', True),
        (', "{v}"', True),
        ('"", "a,b", "{v}"', True),
        ('"abc"', False),
        ('"0{v}"', False),
        ('"+{v}"', False),
        ('"{v}.0"', False),
        ('"0"', False),
        ('"-1"', False),
        ('"99999999999999999999999"', False),
        ('W/"{v}"', False),
        ('W/"{v}", "7"', False),
        ('W/"7", "{v}"', True),
        ('"\xff"', False),
    ],
)
def test_if_match_lists(service: Service, template: str, matches: bool):
    """If-Match holds when one strong tag of the list is the version; other tags match nothing."""
    version = service.put("k").version
    value = template.replace("{v}", str(version))
    answer = service.put("k", b"two", [("If-Match", value)])
    assert answer.status == (204 if matches else 412)


@pytest.mark.parametrize(
    ("template", "matches"),
    [
        ('"{v}"', True),
        ('W/"{v}"', True),
        ('"7", W/"{v}"', True),
        ("*", True),
        ('"7"', False),
        ('W/"7"', False),
        ('"abc"', False),
        ('"0{v}"', False),
    ],
)
def test_get_if_none_match(service: Service, template: str, matches: bool):
    """GET gives 304 with ETag and Cache-Control when a tag, weak or strong, is the version."""
    version = service.put("k", b"one").version
    answer = service.get("k", [("If-None-Match", template.replace("{v}", str(version)))])
    assert answer.version == version
    assert answer.header("cache-control") == "no-cache"
    if matches:
        assert answer.status == 304
        assert answer.header("content-type") is None
    else:
        assert answer.status == 200
        assert answer.body == b"one"


def test_head_if_none_match(service: Service):
    """HEAD gives 304 where GET does."""
    version = service.put("k").version
    answer = service.request("HEAD", service.kv("k"), [("If-None-Match", f'"{version}"')])
    assert answer.status == 304


def test_get_if_none_match_of_a_missing_key(service: Service):
    """GET with If-None-Match of a key that is not there gives 404."""
    assert service.get("k", [("If-None-Match", "*")]).status == 404


def test_get_if_match(service: Service):
    """GET with If-Match gives the value when it is that version, else 412, also when it is gone."""
    version = service.put("k", b"one").version
    assert service.get("k", [("If-Match", f'"{version}"')]).body == b"one"
    check_conflict(service.get("k", [("If-Match", f'"{UNKNOWN}"')]), version)
    check_conflict(service.get("gone", [("If-Match", "*")]), None)


def test_get_if_match_comes_before_if_none_match(service: Service):
    """A GET whose If-Match fails is 412 even where If-None-Match would make it 304."""
    version = service.put("k").version
    headers = [("If-Match", f'"{UNKNOWN}"'), ("If-None-Match", f'"{version}"')]
    assert service.get("k", headers).status == 412


def test_header_on_several_lines(service: Service):
    """A condition on several lines is one list."""
    version = service.put("k").version
    headers = [("If-Match", f'"{UNKNOWN}"'), ("If-Match", f'"{version}"')]
    assert service.put("k", b"", headers).status == 204


@pytest.mark.parametrize(
    "value",
    [
        "17",
        '"17',
        '17"',
        "'17'",
        '"1" "2"',
        '"1"; "2"',
        '*, "1"',
        '"1", *',
        "**",
        "",
        ",",
        'w/"1"',
        'W/ "1"',
        'W"1"',
        '"a b"',
        '"a"b"',
        " " * 5000 + "x",
        '"1"' + " " * 5000 + "x",
        "," * 5000 + "x",
    ],
)
@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_malformed_condition(service: Service, method: str, header: str, value: str):
    """What is neither * nor a list of entity tags gives 400 and changes nothing."""
    version = service.put("k").version
    answer = service.request(method, service.kv("k"), [(header, value)])
    assert answer.status == 400
    body = answer.json()
    assert body["type"] == "urn:cacheserver:problem:malformed-condition"
    assert header in body["detail"]
    assert service.get("k").version == version


def test_put_cas(service: Service):
    """PUT with ?cas= of the current version replaces the value, of another one does not."""
    version = service.put("k", b"one").version
    answer = service.put("k", b"two", query=f"?cas={version}")
    assert answer.status == 204
    check_conflict(service.put("k", b"three", query=f"?cas={version}"), answer.version)
    assert service.get("k").body == b"two"


def test_put_cas_zero_creates(service: Service):
    """PUT with ?cas=0 creates a key, once."""
    created = service.put("k", b"one", query="?cas=0")
    assert created.status == 201
    check_conflict(service.put("k", b"two", query="?cas=0"), created.version)


def test_put_cas_of_a_missing_key(service: Service):
    """PUT with ?cas= of a version to a key that is not there gives 412 without an ETag."""
    check_conflict(service.put("k", query=f"?cas={UNKNOWN}"), None)


def test_delete_with_a_condition(service: Service):
    """DELETE takes If-Match, If-None-Match and ?cas= as PUT does."""
    version = service.put("k").version
    stale = f'"{UNKNOWN}"'
    check_conflict(service.delete("k", [("If-Match", stale)]), version)
    check_conflict(service.delete("k", [("If-None-Match", "*")]), version)
    check_conflict(service.delete("k", query=f"?cas={UNKNOWN}"), version)
    check_conflict(service.delete("k", query="?cas=0"), version)
    assert service.delete("k", [("If-Match", f'"{version}"')]).status == 204
    version = service.put("k").version
    assert service.delete("k", query=f"?cas={version}").status == 204
    service.put("k")
    assert service.delete("k", [("If-Match", "*")]).status == 204


def test_delete_of_a_missing_key_with_a_condition(service: Service):
    """DELETE of a missing key is 412 where its condition fails, and 404 where it holds."""
    for prepare in (lambda: None, lambda: service.put("other")):
        prepare()
        check_conflict(service.delete("k", [("If-Match", "*")]), None)
        check_conflict(service.delete("k", query=f"?cas={UNKNOWN}"), None)
        assert service.delete("k", query="?cas=0").status == 404
        assert service.delete("k", [("If-None-Match", "*")]).status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(
    ("headers", "query", "holds"),
    [
        ([("If-Match", '"{v}"')], "?cas={v}", True),
        ([("If-Match", '"{v}"')], "?cas=7", False),
        ([("If-Match", '"7"')], "?cas={v}", False),
        ([("If-Match", '"7", "8"')], "?cas=9", False),
        ([("If-Match", '"{v}"'), ("If-None-Match", '"7"')], "", True),
        ([("If-Match", '"{v}"'), ("If-None-Match", '"{v}"')], "", False),
        ([("If-Match", "*"), ("If-None-Match", "*")], "", False),
        ([("If-Match", "*")], "?cas={v}", True),
        ([("If-Match", "*")], "?cas=0", False),
        ([("If-None-Match", "*")], "?cas={v}", False),
        ([("If-None-Match", '"7"')], "?cas={v}", True),
    ],
)
def test_two_conditions_are_both_checked(
    service: Service, method: str, headers: list[tuple[str, str]], query: str, holds: bool
):
    """Conditions in two headers, or in a header and ?cas=, must all hold."""
    version = str(service.put("k").version)
    answer = service.request(
        method,
        service.kv("k", query.replace("{v}", version)),
        [(name, value.replace("{v}", version)) for name, value in headers],
    )
    assert answer.status == (204 if holds else 412)


def test_contradictory_conditions_on_a_missing_key(service: Service):
    """Create-only together with a version never holds, whether the key is there or not."""
    check_conflict(service.put("k", b"", [("If-None-Match", "*")], "?cas=7"), None)
