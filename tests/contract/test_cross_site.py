"""What a browser sends for a page of another site changes nothing where no token is asked for."""

from __future__ import annotations

import pytest

from tests.contract.conftest import TOKEN, Service

ELSEWHERE = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://cache.test"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://cache.test:81"},
    {"Origin": "null"},
)
HERE: tuple[dict[str, str], ...] = (
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://cache.test"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://cache.test"},
    {"Origin": "HTTPS://CACHE.test"},
)


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_pages_of_other_sites_change_nothing(service: Service, headers: dict[str, str]):
    """Whatever they send, and although a browser asks nobody before it sends some of it."""
    service.put("k", b"1")
    namespace = f"/v1/namespaces/{service.namespace}"
    key = f"{service.namespace}/k"
    for method, target in (
        *(("PUT", f"/v1/kv/{key}"), ("DELETE", f"/v1/kv/{key}"), ("POST", f"/v1/incr/{key}")),
        *(("POST", f"/v1/append/{key}"), ("POST", f"/v1/touch/{key}?ttl=1")),
        *(("POST", f"{namespace}/clear"), ("DELETE", namespace)),
    ):
        body = b"2" if method == "PUT" or "append" in target else b""
        answer = service.request(method, target, list(headers.items()), body)
        assert answer.status == 403, (method, target)
        assert answer.json()["type"] == "urn:cacheserver:problem:cross-site"
    assert service.get("k").body == b"1"
    assert service.get("k").header("cache-control") == "no-cache"
    answer = service.request("GET", f"/v1/kv/{key}", list(headers.items()))
    assert (answer.status, answer.body) == (200, b"1")


@pytest.mark.parametrize("headers", HERE)
def test_pages_of_this_server_and_programs_may(service: Service, headers: dict[str, str]):
    """The live page, and who is no browser."""
    target = f"/v1/incr/{service.namespace}/n"
    assert service.request("POST", target, list(headers.items())).status == 200
    target = f"/v1/namespaces/{service.namespace}/clear"
    assert service.request("POST", target, list(headers.items())).status == 200


def test_a_token_is_enough(guarded: Service):
    """Who shows one is no accident; who shows none learns nothing else."""
    target = f"/v1/incr/{guarded.namespace}/n"
    elsewhere = ("Sec-Fetch-Site", "cross-site")
    assert guarded.request("POST", target, [elsewhere]).status == 401
    token = ("Authorization", f"Bearer {TOKEN}")
    assert guarded.request("POST", target, [elsewhere, token]).status == 200


@pytest.mark.parametrize(
    ("content_type", "active"),
    [
        *(("text/html", True), ("TEXT/HTML; charset=utf-8", True), ("image/svg+xml", True)),
        *(("application/xhtml+xml", True), ("text/xml", True), ("application/xml", True)),
        *(("text/plain", False), ("application/json", False), ("image/png", False)),
        *(("application/octet-stream", False), ("text/x-html", False)),
    ],
)
def test_documents_are_put_into_a_sandbox(service: Service, content_type: str, active: bool):
    """A browser that opens a stored page runs none of its scripts at the origin of the live page."""
    service.put("k", b"<p>", headers=[("Content-Type", content_type)])
    for _ in range(3):
        answer = service.get("k")
        assert answer.header("content-type") == content_type
        assert answer.header("content-security-policy") == ("sandbox" if active else None)
        assert answer.header("x-content-type-options") == ("nosniff" if active else None)
