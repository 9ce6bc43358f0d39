"""What the contract is tested against: the app in process, mounted, and behind three servers.

Those are our own with and without the fast path, and granian, which shows that the app leans on
nothing of ours; what differs there, and why, is told in `tests.support.planes`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from cacheserver.http import create_app
from cacheserver.http.routes import ROUTES, RouteTable
from cacheserver.store.store import Store
from tests.support.clock import ManualClock
from tests.support.http_client import Answer, AppClient, Body, Client, Headers, SocketClient
from tests.support.planes import PLANES, Planes
from tests.support.server import wait_until

MAX_VALUE_SIZE: Final = 200_000
JSON: Final = ("Content-Type", "application/json")
TOKEN: Final = "open-sesame-open-sesame"
WAYS: Final = ("app", "mounted", "root-path", *PLANES)

_SETTINGS: Final = {
    "CACHESERVER_THREADS": "2",
    "CACHESERVER_MAX_VALUE_SIZE": str(MAX_VALUE_SIZE),
    "CACHESERVER_MAX_NAMESPACES": "4096",
}

_TABLE: Final = RouteTable(ROUTES)

_NOT_UNDER_GRANIAN: Final = {
    "test_the_connection_lives_on_after_an_error": "granian doesn't read on after a body of which "
    "the app left much unread, nor does it close the connection",
    "test_no_body_in_chunks": "granian stalls where the app leaves a body in chunks unread",
}
"""By the name of the test, the reason."""

_numbers = itertools.count(1)


@dataclass
class Service:
    """A cache, however it is served, and a namespace that this test has for itself."""

    way: str
    client: Client
    clock: ManualClock | None
    """The store's, None where it is real."""
    namespace: str
    connect: Callable[[], Client]
    """Return a client more, which its caller closes. Each belongs to one thread."""
    store: Store | None = None
    """What is served, None where that is in another process."""

    def request(
        self, method: str, target: str | bytes, headers: Headers = (), body: Body = b""
    ) -> Answer:
        """Send a request for any target. The table of routes must know the status of the answer."""
        answer = self.client.request(method, target, headers, body)
        raw = target.encode() if isinstance(target, str) else target
        found = _TABLE.find(raw.partition(b"?")[0])
        if self.way == "mounted" and answer.body == b"Not Found":
            found = None  # answered by the app around ours, which did not hand it on
        if found is not None and method in found.resource.routes:
            route = found.resource.routes[method]
            assert answer.status in {*route.statuses, 401, 403}, (route.operation, answer.status)
        return answer

    def told(self, target: str) -> dict[str, Any]:
        """GET what is JSON."""
        answer = self.request("GET", target)
        assert answer.status == 200
        assert answer.header("content-type") == "application/json"
        return dict(answer.json())

    def kv(self, key: str | bytes, query: str = "") -> bytes:
        """The target of a key, which is given percent-encoded."""
        raw = key.encode("ascii") if isinstance(key, str) else key
        return b"/v1/kv/%b/%b%b" % (self.namespace.encode(), raw, query.encode())

    def get(self, key: str | bytes, headers: Headers = ()) -> Answer:
        """GET a key."""
        return self.request("GET", self.kv(key), headers)

    def put(
        self, key: str | bytes, body: Body = b"value", headers: Headers = (), query: str = ""
    ) -> Answer:
        """PUT a key."""
        return self.request("PUT", self.kv(key, query), headers, body)

    def delete(self, key: str | bytes, headers: Headers = (), query: str = "") -> Answer:
        """DELETE a key."""
        return self.request("DELETE", self.kv(key, query), headers)

    def verb(
        self, verb: str, key: str, query: str = "", headers: Headers = (), body: Body = b""
    ) -> Answer:
        """POST to one of the routes of a key that are named by a verb."""
        return self.request("POST", f"/v1/{verb}/{self.namespace}/{key}{query}", headers, body)

    def configure(self, **fields: object) -> Answer:
        """PUT the configuration of the namespace."""
        target = f"/v1/namespaces/{self.namespace}"
        return self.request("PUT", target, [JSON], json.dumps(fields).encode())

    def figures(self) -> dict[str, Any]:
        """The figures of the namespace."""
        answer = self.request("GET", f"/v1/namespaces/{self.namespace}")
        assert answer.status == 200
        return dict(answer.json()["figures"])

    def cas(self, key: str, body: bytes, headers: Headers | None = None) -> Answer:
        """POST a JSON compare-and-set."""
        if headers is None:
            headers = [JSON]
        return self.request("POST", f"/v1/cas/{self.namespace}/{key}", headers, body)

    def within(self, seconds: float, probe: Callable[[], object], what: str) -> None:
        """Let time pass, `seconds` at least, until the probe comes true; fail if it does not."""
        if self.clock is None:
            wait_until(probe, what)
        else:
            self.clock.advance(seconds)
            assert probe(), what


def _in_process(way: str, app: Starlette) -> AppClient:
    if way == "mounted":
        outer = Starlette(routes=[Mount("/an outer app", routes=[Mount("/cache", app=app)])])
        return AppClient(outer, prefix=b"/an%20outer%20app/cache")
    return AppClient(app, root_path="/api/v1" if way == "root-path" else "")


@contextmanager
def _served(request: pytest.FixtureRequest, **options: Any) -> Generator[Service]:
    """Serve a cache in the way that `request` asks for. `options` are those of the app."""
    way = request.param
    reason = _NOT_UNDER_GRANIAN.get(request.node.originalname)
    if way == "granian" and reason is not None:
        pytest.skip(reason)
    clock: ManualClock | None = None
    store: Store | None = None
    connect: Callable[[], Client]
    if way in PLANES:
        token = {"CACHESERVER_TOKEN": TOKEN} if "tokens" in options else {}
        server = request.getfixturevalue("planes").start(way, {**_SETTINGS, **token})
        connect = partial(SocketClient, server.host, server.port, closes=way != "granian")
    else:
        make = request.getfixturevalue("make")
        clock = make.clock
        store = make.store(stripes=4, max_value_size=MAX_VALUE_SIZE)
        connect = partial(_in_process, way, create_app(store, **options))
    with closing(connect()) as client:
        yield Service(way, client, clock, f"test-{next(_numbers)}", connect, store)


@pytest.fixture(scope="session")
def planes() -> Generator[Planes]:
    """The servers, which all tests share."""
    with Planes() as running:
        yield running


@pytest.fixture(params=WAYS)
def service(request: pytest.FixtureRequest) -> Generator[Service]:
    """A cache that is open to everybody."""
    with _served(request) as served:
        yield served


@pytest.fixture(params=[way for way in WAYS if way not in PLANES])
def inside(request: pytest.FixtureRequest) -> Generator[tuple[Service, Store]]:
    """A cache in this process that is open to everybody, and its store."""
    with _served(request) as served:
        assert served.store is not None
        yield served, served.store


@pytest.fixture(params=WAYS)
def guarded(request: pytest.FixtureRequest) -> Generator[Service]:
    """A cache that asks for TOKEN."""
    with _served(request, tokens=TOKEN) as served:
        yield served
