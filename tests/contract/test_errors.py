"""Errors: who may come in, what there is, what is too large; and what every error looks like."""

from __future__ import annotations

import pytest

from tests.contract.conftest import MAX_VALUE_SIZE, TOKEN, Service
from tests.support.http_client import Answer

JSON = ("Content-Type", "application/json")


UNKNOWN_ROUTES = [
    "/",
    "/v1",
    "/v1/",
    "/v1/kv",
    "/v1/kv/",
    "/v1/kv/ns",
    "/v1/nothing/ns/k",
    "/v2/kv/ns/k",
    "/favicon.ico",
    "/%00",
    "/x/v1/kv/ns/k",
    "/healthz/",
    "/HEALTHZ",
    "/v1/info/",
    "//healthz",
    "/healthz%2F",
    "//v1/kv/ns/k",
    "/V1/kv/ns/k",
    "/v1%2Fkv/ns/k",
    "/v1/kv%2Fns/k",
    "/%76%31/kv/ns/k",
]


def check_problem(answer: Answer, status: int, slug: str) -> None:
    """An error has the members that RFC 9457 names, and a sentence in each."""
    assert answer.status == status
    assert answer.header("content-type") == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:cacheserver:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]


@pytest.mark.parametrize(
    "target",
    UNKNOWN_ROUTES,
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_unknown_route(service: Service, method: str, target: str):
    """What is no route gives 404 with that reason, and no redirect."""
    answer = service.request(method, target)
    check_problem(answer, 404, "not-found")
    assert answer.json()["reason"] == "route"


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/v1/kv/ns/k", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PATCH", "/v1/kv/ns/k", {"GET", "HEAD", "PUT", "DELETE"}),
        ("OPTIONS", "/v1/kv/ns/k", {"GET", "HEAD", "PUT", "DELETE"}),
        ("GET", "/v1/cas/ns/k", {"POST"}),
        ("HEAD", "/v1/cas/ns/k", {"POST"}),
        ("PUT", "/healthz", {"GET", "HEAD"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("DELETE", "/v1/info", {"GET", "HEAD"}),
        ("POST", "/readyz", {"GET", "HEAD"}),
    ],
)
def test_method_not_allowed(service: Service, method: str, target: str, allow: set[str]):
    """A method that a route lacks gives 405 and names in Allow all that it has."""
    answer = service.request(method, target)
    assert answer.status == 405
    assert set((answer.header("allow") or "").split(", ")) == allow
    if method != "HEAD":
        check_problem(answer, 405, "method-not-allowed")


@pytest.mark.parametrize("target", ["/v1/kv/ns/k", "/v1/info", "/metrics", "/nothing", "/"])
def test_no_token(guarded: Service, target: str):
    """Without a token everything gives 401 with a challenge, unknown routes too."""
    answer = guarded.request("GET", target)
    check_problem(answer, 401, "unauthorized")
    assert answer.header("www-authenticate") == 'Bearer realm="cacheserver"'


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong",
        "Bearer ",
        "Bearer",
        "",
        "Basic " + TOKEN,
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f"Bearer {TOKEN.upper()}",
        b"Bearer \xff\xfe",
        b"\xff",
    ],
)
def test_wrong_token(guarded: Service, authorization: str | bytes):
    """Any other credentials give 401 that says so, and nothing is read or written."""
    headers = [("Authorization", authorization)]
    answer = guarded.put("k", b"x", headers)
    check_problem(answer, 401, "unauthorized")
    assert 'error="invalid_token"' in (answer.header("www-authenticate") or "")
    assert guarded.get("k", [("Authorization", f"Bearer {TOKEN}")]).status == 404


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_right_token(guarded: Service, scheme: str):
    """The token opens everything, whatever the case of the scheme."""
    headers = [("Authorization", f"{scheme} {TOKEN}")]
    assert guarded.put("k", b"x", headers).status == 201
    assert guarded.get("k", headers).body == b"x"
    assert guarded.request("GET", "/v1/info", headers).status == 200
    assert guarded.request("GET", "/nothing", headers).status == 404


def test_two_authorization_headers(guarded: Service):
    """Two Authorization headers are refused, even when one is right."""
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer wrong")]
    assert guarded.get("k", headers).status == 401


@pytest.mark.parametrize("target", ["/healthz", "/readyz"])
def test_probes_need_no_token(guarded: Service, target: str):
    """Liveness and readiness are open to everybody, whatever token is shown."""
    assert guarded.request("GET", target).status == 200
    assert guarded.request("HEAD", target).status == 200
    assert guarded.request("GET", target, [("Authorization", "Bearer wrong")]).status == 200


def test_head_without_a_token(guarded: Service):
    """HEAD gives 401 with the challenge and without a body."""
    answer = guarded.request("HEAD", "/v1/info")
    assert answer.status == 401
    assert answer.header("www-authenticate")


@pytest.mark.parametrize("size", [MAX_VALUE_SIZE + 1, 10**18])
def test_announced_body_too_large(service: Service, size: int):
    """An announced body that is too large gives 413 before any of it is asked for."""
    answer = service.client.announce("PUT", service.kv("k"), size)
    check_problem(answer, 413, "too-large")
    assert answer.header("connection") == "close"


@pytest.mark.parametrize("chunked", [False, True])
def test_body_too_large(service: Service, chunked: bool):
    """A body that is too large gives 413 and closes the connection; nothing is stored."""
    pieces = [b"x" * 50_000] * (MAX_VALUE_SIZE // 50_000) + [b"x"]
    answer = service.put("k", pieces if chunked else b"".join(pieces))
    check_problem(answer, 413, "too-large")
    assert answer.header("connection") == "close"
    assert service.get("k").status == 404


def test_json_body_too_large(service: Service):
    """POST /v1/cas gives 413 for a body beyond a value in base64 and what goes around it."""
    size = MAX_VALUE_SIZE * 2
    answer = service.client.announce("POST", f"/v1/cas/{service.namespace}/k", size, [JSON])
    check_problem(answer, 413, "too-large")


def test_too_large_comes_before_all_else_about_a_value(service: Service):
    """413 wins over a condition that fails, over a bad key and over a bad query."""
    service.put("k")
    size = MAX_VALUE_SIZE + 1
    headers = [("If-Match", '"7"')]
    assert service.client.announce("PUT", service.kv("k"), size, headers).status == 413
    assert service.client.announce("PUT", service.kv("%zz"), size).status == 413
    assert service.client.announce("PUT", service.kv("k", "?x=1"), size).status == 413
    assert service.put("k", [b"x" * size], headers).status == 413


def test_route_comes_before_too_large(service: Service):
    """404 of a route and 405 win over 413."""
    size = MAX_VALUE_SIZE + 1
    assert service.client.announce("PUT", "/v1/nothing", size).status == 404
    assert service.client.announce("PUT", "/healthz", size).status == 405


def test_token_comes_before_everything(guarded: Service):
    """401 wins over 404, 405, 413, bad keys and conditions."""
    for method, target in (("PUT", "/v1/nothing"), ("PATCH", "/v1/kv/ns/k"), ("GET", "/v1/kv/ns/")):
        assert guarded.request(method, target).status == 401
    assert guarded.client.announce("PUT", "/v1/kv/ns/k", MAX_VALUE_SIZE + 1).status == 401
    assert guarded.put("k", b"", [("If-Match", "x")]).status == 401


def test_malformed_comes_before_the_condition(service: Service):
    """400 for the form of a request wins over 412."""
    service.put("k")
    assert service.put("k", b"", [("If-Match", '"7"')], "?x=1").status == 400


def test_the_connection_lives_on_after_an_error(service: Service):
    """After an error whose body was not read the next request is understood as always."""
    for key, body in (("%zz", b"x" * 100_000), ("k" * 1025, b"GET / HTTP/1.1\r\n\r\n" * 50)):
        assert service.put(key, body).status in (400, 414)
        assert service.put("fine", b"y").status in (201, 204)
    assert service.request("POST", "/v1/nothing", (), b"x" * 100_000).status == 404
    assert service.get("fine", ()).body == b"y"
