"""GET, HEAD, PUT and DELETE on values: the rows of the contract's table, without conditions."""

from __future__ import annotations

import pytest

from tests.contract.conftest import MAX_VALUE_SIZE, Service


def test_put_of_a_new_key_is_created(service: Service):
    """PUT of a key that was not there gives 201, an ETag, and no body."""
    answer = service.put("k", b"one")
    assert answer.status == 201
    assert answer.version > 0
    assert answer.body == b""


def test_put_of_an_existing_key_replaces_it(service: Service):
    """PUT of a key that is there gives 204 and a higher version."""
    first = service.put("k", b"one")
    second = service.put("k", b"two")
    assert second.status == 204
    assert second.version > first.version
    assert service.get("k").body == b"two"


def test_get_gives_value_version_type_and_length(service: Service):
    """GET gives the value with ETag, the stored Content-Type, Content-Length and Cache-Control."""
    written = service.put("k", b"one", [("Content-Type", "text/plain; charset=latin-1")])
    answer = service.get("k")
    assert answer.status == 200
    assert answer.body == b"one"
    assert answer.header("etag") == f'"{written.version}"'
    assert answer.header("content-type") == "text/plain; charset=latin-1"
    assert answer.header("content-length") == "3"
    assert answer.header("cache-control") == "no-cache"


def test_put_without_a_content_type_is_octets(service: Service):
    """A value stored without Content-Type comes back as application/octet-stream."""
    service.put("k")
    assert service.get("k").header("content-type") == "application/octet-stream"


@pytest.mark.parametrize("content_type", ["a" * 255, "text/html", 'a/b; q="x, y"', "nonsense"])
def test_content_type_comes_back_as_it_was_given(service: Service, content_type: str):
    """Any printable ASCII up to 255 bytes is kept as it is."""
    assert service.put("k", b"", [("Content-Type", content_type)]).status == 201
    assert service.get("k").header("content-type") == content_type


@pytest.mark.parametrize("content_type", [b"a" * 256, b"text/pl\xe4in", b"a/b\tc"])
def test_unusable_content_type_is_refused(service: Service, content_type: bytes):
    """A Content-Type that is too long or not printable ASCII gives 400, and nothing is stored."""
    answer = service.put("k", b"", [("Content-Type", content_type)])
    assert answer.status == 400
    assert answer.json()["type"].endswith(":malformed-header")
    assert service.get("k").status == 404


def test_part_of_a_value_is_refused(service: Service):
    """PUT of a range would store a part as the whole: it gives 400."""
    assert service.put("k", b"half", [("Content-Range", "bytes 0-3/8")]).status == 400
    assert service.get("k").status == 404


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
def test_coded_value_is_refused(service: Service, coding: str):
    """The coding of a value would be forgotten: PUT with Content-Encoding gives 415."""
    answer = service.put("k", b"\x1f\x8b", [("Content-Encoding", coding)])
    assert answer.status == 415
    assert answer.json()["type"].endswith(":unsupported-media-type")
    assert service.get("k").status == 404
    assert service.put("k", b"plain", [("Content-Encoding", "identity")]).status == 201


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "Text/Plain", "a/b;c=d"]
)
def test_content_type_comes_back_letter_by_letter(service: Service, content_type: str):
    """A common type and a rare one come back exactly as they were given."""
    service.put("k", b"", [("Content-Type", content_type)])
    assert service.get("k").header("content-type") == content_type


def test_head_is_get_without_the_body(service: Service):
    """HEAD gives the status and all the headers of GET."""
    service.put("k", b"one", [("Content-Type", "text/plain")])
    head = service.request("HEAD", service.kv("k"))
    get = service.get("k")
    keep = ("etag", "content-type", "content-length", "cache-control")
    assert head.status == 200
    assert {name: head.header(name) for name in keep} == {name: get.header(name) for name in keep}


def test_head_of_a_missing_key(service: Service):
    """HEAD of a missing key gives 404 without a body, with the headers of the problem."""
    answer = service.request("HEAD", service.kv("k"))
    assert answer.status == 404
    assert answer.header("content-type") == "application/problem+json"
    assert int(answer.header("content-length") or 0) > 0


def test_get_of_a_missing_namespace(service: Service):
    """GET in a namespace that nobody wrote to gives 404 with that reason."""
    answer = service.get("k")
    assert answer.status == 404
    assert answer.json()["reason"] == "namespace"


def test_get_of_a_missing_key(service: Service):
    """GET of a key that is not in its namespace gives 404 with that reason."""
    service.put("other")
    answer = service.get("k")
    assert answer.status == 404
    assert answer.json()["reason"] == "key"
    assert answer.header("etag") is None


def test_delete_removes_the_key(service: Service):
    """DELETE gives 204 without a body, and the key is gone."""
    service.put("k")
    answer = service.delete("k")
    assert answer.status == 204
    assert answer.body == b""
    assert service.get("k").status == 404


def test_delete_of_a_missing_key(service: Service):
    """DELETE of a key that is not there gives 404, in a namespace that is there or not."""
    assert service.delete("k").json()["reason"] == "namespace"
    service.put("other")
    answer = service.delete("k")
    assert answer.status == 404
    assert answer.json()["reason"] == "key"


def test_versions_rise_across_delete(service: Service):
    """A key that was deleted and written again has a version that it never had."""
    before = service.put("k").version
    service.delete("k")
    again = service.put("k")
    assert again.status == 201
    assert again.version > before


def test_empty_value(service: Service):
    """A value of no bytes is a value."""
    assert service.put("k", b"").status == 201
    answer = service.get("k")
    assert answer.status == 200
    assert answer.header("content-length") == "0"


def test_value_of_all_bytes(service: Service):
    """A value with every byte comes back as it was."""
    value = bytes(range(256)) * 3
    service.put("k", value)
    assert service.get("k").body == value


def test_value_in_chunks(service: Service):
    """A body without Content-Length is stored whole."""
    service.put("k", [b"one ", b"two ", b"", b"three"])
    assert service.get("k").body == b"one two three"


@pytest.mark.parametrize("chunked", [False, True])
def test_largest_value(service: Service, chunked: bool):
    """A value of exactly the largest size is taken."""
    value = b"x" * MAX_VALUE_SIZE
    assert service.put("k", [value] if chunked else value).status == 201
    assert service.get("k").body == value


def test_client_that_leaves_stores_nothing(service: Service):
    """A body that breaks off is not stored, neither half of it nor in place of what was there."""
    service.put("old", b"old")
    service.client.abandon("PUT", service.kv("old"), 100, b"half of it")
    service.client.abandon("PUT", service.kv("new"), 100, b"half of it")
    assert service.get("old").body == b"old"
    assert service.get("new").status == 404


def test_namespaces_are_apart(service: Service):
    """The same key in two namespaces is two keys."""
    service.put("k", b"mine")
    other = f"/v1/kv/{service.namespace}.other/k"
    assert service.request("GET", other).status == 404
    assert service.request("PUT", other, (), b"theirs").status == 201
    assert service.get("k").body == b"mine"
