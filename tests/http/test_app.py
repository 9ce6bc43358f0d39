"""How the app is built, and what servers other than ours may hand to it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cacheserver import Conflict, Store, operations
from cacheserver.http import ServiceStatus, create_app
from cacheserver.http.access import Tokens
from tests.support.http_client import AppClient


def call(app: Any, **scope: Any) -> list[dict[str, Any]]:
    """Call the app with a bare scope. Returns what it sent."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    bare = {"type": "http", "method": "GET", "query_string": b"", "headers": [], **scope}
    asyncio.run(app(bare, receive, send))
    return sent


def test_nothing_is_built_by_the_first_request():
    """The middleware is there before any request: many threads may make the first one together."""
    assert create_app().middleware_stack is not None


def test_app_makes_a_store_of_its_own():
    """Without a store the app has a new one, which can be got at."""
    one, other = create_app(), create_app()
    assert isinstance(one.state.store, Store)
    assert one.state.store is not other.state.store


def test_scope_without_raw_path_and_root_path():
    """A server may leave out what ASGI lets it leave out."""
    app = create_app()
    app.state.store.namespace("n").put("a b/ü", b"it")
    start, body = call(app, path="/v1/kv/n/a b/ü")
    assert start["status"] == 200
    assert body["body"] == b"it"


def test_no_redirects():
    """A slash too many is another path: it gives 404, however the server tells the path."""
    start, _ = call(create_app(), path="/healthz/")
    assert start["status"] == 404


def test_errors_of_added_routes_are_problems():
    """What a route raises that somebody added to the app is a problem too."""

    async def brew(request: object) -> Response:
        raise HTTPException(418, "no coffee here", {"x-pot": "tea"})

    app = create_app()
    app.router.routes.append(Route("/coffee", brew))
    client = AppClient(app)
    answer = client.request("GET", "/coffee")
    client.close()
    assert answer.status == 418
    assert answer.header("x-pot") == "tea"
    assert answer.json()["type"] == "urn:cacheserver:problem:im-a-teapot"
    assert answer.json()["detail"] == "no coffee here"


def test_request_without_message_fields():
    """A body message without its optional fields is an empty body."""
    app = create_app()
    start, _ = call(app, method="PUT", path="/v1/kv/n/k", raw_path=b"/v1/kv/n/k")
    assert start["status"] == 201


def test_websocket_is_closed():
    """A WebSocket has nothing to connect to, with a token or without."""
    for tokens in (None, "t"):
        sent = call(create_app(tokens=tokens), type="websocket", path="/v1/kv/n/k")
        assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_not_ready(state: Any):
    """While the server starts or drains, readiness is 503 and says why; liveness is not touched."""
    client = AppClient(create_app(status=ServiceStatus(state=state)))
    answer = client.request("GET", "/readyz")
    assert answer.status == 503
    assert answer.json()["state"] == state
    assert answer.header("retry-after") == "1"
    assert client.request("GET", "/healthz").status == 200
    client.close()


def test_several_tokens():
    """Each of several tokens opens."""
    client = AppClient(create_app(tokens=Tokens(["one", "zwö"])))
    for token in ("one", "zwö"):
        headers = [("Authorization", b"Bearer " + token.encode())]
        assert client.request("GET", "/v1/info", headers).status == 200
    assert client.request("GET", "/v1/info", [("Authorization", "Bearer onezwö")]).status == 401
    client.close()


def test_empty_token_is_refused():
    """An empty token would open to everybody who sends `Bearer`."""
    with pytest.raises(ValueError, match="empty"):
        create_app(tokens="")


def test_full_store():
    """A write for which there is no memory gives 507, one for which there never will be 413."""
    client = AppClient(create_app(Store(max_memory=5000, policy="none")))
    assert client.request("PUT", "/v1/kv/n/k", (), b"x" * 3000).status == 201
    full = client.request("PUT", "/v1/kv/n/l", (), b"x" * 3000)
    assert (full.status, full.json()["type"]) == (507, "urn:cacheserver:problem:full")
    never = client.request("PUT", "/v1/kv/n/l", (), b"x" * 6000)
    assert (never.status, never.json()["type"]) == (413, "urn:cacheserver:problem:never-fits")
    client.close()


def test_contention(monkeypatch: pytest.MonkeyPatch):
    """A write that others are always quicker than gives 503, and says when to try again."""

    def never_still(*arguments: object, **options: object) -> Conflict[bytes]:
        return Conflict(None)

    monkeypatch.setattr(operations, "put", never_still)
    client = AppClient(create_app())
    for verb in ("incr", "append"):
        answer = client.request("POST", f"/v1/{verb}/n/k")
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert answer.json()["type"] == "urn:cacheserver:problem:contention"
    client.close()


def test_changes_of_namespaces_leave_no_thread_behind():
    """They are made in threads that end: what those have made is freed when others delete it."""
    app = create_app()
    seen: set[threading.Thread] = set()
    app.state.store.create = noting_the_thread(app.state.store.create, seen)
    client = AppClient(app)
    headers = [("Content-Type", "application/json")]
    for _ in range(3):
        assert client.request("PUT", "/v1/namespaces/n", headers, b"{}").status in (200, 201)
    assert len(seen) == 3
    assert threading.current_thread() not in seen
    assert not [thread for thread in seen if thread.is_alive()]
    client.close()


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [("POST", "/v1/namespaces/n/clear", "get"), ("DELETE", "/v1/namespaces/n", "drop")],
)
def test_the_loop_goes_on_while_a_namespace_is_changed(method: str, path: str, verb: str):
    """What takes long there keeps no other request of the same event loop waiting."""
    app = create_app()
    begun, release = threading.Event(), threading.Event()

    def slow(name: str) -> None:
        begun.set()
        assert release.wait(20)

    setattr(app.state.store, verb, slow)

    async def ask() -> tuple[int, int]:
        changing = asyncio.create_task(status_of(app, method, path))
        assert await asyncio.to_thread(begun.wait, 20)
        meanwhile = await status_of(app, "GET", "/healthz")
        assert not changing.done()
        release.set()
        return await changing, meanwhile

    assert asyncio.run(ask()) == (404, 200)


async def status_of(app: Any, method: str, path: str) -> int:
    """Ask the app on the running loop."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    return int(sent[0]["status"])


def noting_the_thread[**P, R](
    function: Callable[P, R], seen: set[threading.Thread]
) -> Callable[P, R]:
    """The same function, noting who calls it."""

    def noting(*arguments: P.args, **options: P.kwargs) -> R:
        seen.add(threading.current_thread())
        return function(*arguments, **options)

    return noting


def test_too_many_namespaces():
    """A write that would make one namespace too many gives 507, and the others go on."""
    client = AppClient(create_app(Store(max_namespaces=1)))
    assert client.request("PUT", "/v1/kv/one/k").status == 201
    assert client.request("PUT", "/v1/kv/two/k").status == 507
    assert client.request("GET", "/v1/kv/two/k").status == 404
    assert client.request("PUT", "/v1/kv/one/k").status == 204
    client.close()


@pytest.fixture(scope="module")
def some_app() -> Any:
    """An app for many examples: to make one starts threads."""
    return create_app(Store(stripes=1))


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "?"]),
    path=st.sampled_from(
        [
            *(b"/v1/kv/n/", b"/v1/cas/n/", b"/v1/kv/", b"/v1/", b"/", b"/v1/incr/n/"),
            *(b"/v1/append/n/", b"/v1/touch/n/", b"/v1/namespaces/", b"/v1/namespaces/n/"),
        ]
    ),
    rest=st.binary(max_size=30),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["If-Match", "If-None-Match", "Content-Type", "Content-Length"]),
            st.sampled_from([b"application/json", b"*", b'"1"']) | st.binary(max_size=20),
        ),
        max_size=4,
    ),
    body=st.binary(max_size=30)
    | st.sampled_from(
        [b'{"expected_version":0,"value":1}', b'{"expected_version":', b"[]", b'{"stripes":2}']
    ),
)
def test_any_request_has_an_answer(
    some_app: Any,
    method: str,
    path: bytes,
    rest: bytes,
    headers: list[tuple[str, bytes]],
    body: bytes,
):
    """No request, however malformed, gives a status of 500, and every error is a problem."""
    client = AppClient(some_app)
    answer = client.request(method, path + rest, headers, [body])
    client.close()
    assert answer.status < 500
    if answer.status >= 400:
        assert answer.header("content-type") == "application/problem+json"
        assert method == "HEAD" or answer.json()["status"] == answer.status


def test_many_event_loops():
    """Loops in many threads call one app at once, and all see one store."""
    app = create_app()
    threads, rounds = 4, 50
    barrier = threading.Barrier(threads)

    def run(number: int) -> None:
        client = AppClient(app)
        barrier.wait()
        for turn in range(rounds):
            key = f"/v1/kv/n/{number}-{turn}"
            assert client.request("PUT", key, (), key.encode()).status == 201
            assert client.request("GET", key).body == key.encode()
        assert client.request("GET", "/metrics").status == 200
        client.close()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads)))
    assert app.state.store.statistics().entries == threads * rounds


def test_app_leaves_no_thread_behind():
    """The threads for metrics and history start with the app and end when the app is garbage."""
    before = set(threading.enumerate())
    app = create_app()
    started = set(threading.enumerate()) - before
    assert sorted(thread.name for thread in started) == [
        "cacheserver-history",
        "cacheserver-metrics_0",
    ]
    del app
    gc.collect()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
