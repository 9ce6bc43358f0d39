"""The same exchanges with every server: the answers are the same, byte for byte."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

import pytest

from cacheserver.http import problems
from cacheserver.http.routes import ROUTES, RouteTable
from tests.parity.conftest import SETTINGS, Pair, fresh
from tests.parity.exchanges import CURRENT, EXCHANGES, FULL, GUARDED, TOKEN
from tests.parity.streams import Reply, replies, transcript
from tests.support.planes import Planes
from tests.support.server import RunningServer
from tests.support.wire import Wire, request

_TAG = re.compile(rb'\r\netag: "([0-9]+)"')
_COUNT = re.compile(
    r"cacheserver_((requests|hits|misses|writes|cas_conflicts|expirations)_total|entries|bytes"
    r"|request_seconds_count)\b"
)
_GRANIANS_OWN = frozenset({b"date", b"server", b"connection"})

_KIND = re.compile(rb'"urn:cacheserver:problem:([^"]+)"')
GUARD = {"CACHESERVER_TOKEN": TOKEN}
ONE_NAMESPACE = {"CACHESERVER_MAX_NAMESPACES": "1"}
LITTLE_MEMORY = {"CACHESERVER_MAX_MEMORY": "65536"}
ANSWERED = {
    *problems.KINDS.values(),
    *(problems.UNAUTHORIZED, problems.NOT_FOUND, problems.METHOD_NOT_ALLOWED),
    problems.CONDITION_FAILED,
} - {problems.INTERNAL, problems.INVALID_INPUT, problems.BAD_REQUEST, problems.CONTENTION}
"""What a client can be answered, but for what is a mistake of ours, the root of a branch, no HTTP, or
takes more luck than a test has."""
COUNTED = (
    *("the life of a value", "if-match", "if-none-match", "queries", "keys", "HTTP/1.0"),
    *("numbers", "pieces", "a new time to live", "conditions of other verbs", "a full namespace"),
)
NOT_UNDER_GRANIAN = {
    "upgrades": "granian takes an upgrade to h2c or to websockets itself",
    "keys of characters that are to be encoded": "granian refuses targets that are no valid URI",
    "a blank after the coding": "the parser of our own server refuses it",
}


class Recorder:
    """Has one exchange after the other with a server, and keeps all that came.

    They use one connection for as long as the server lets them, or each one of its own.
    """

    def __init__(self, server: RunningServer, namespace: str, *, apart: bool = False) -> None:
        self._server = server
        self._namespace = namespace
        self._apart = apart
        self._current = CURRENT.encode()
        self._wire: Wire | None = None

    def replies(self, requests: list[bytes]) -> list[Reply]:
        try:
            raw = b"".join(self._raw_answer(fresh(raw, self._namespace)) for raw in requests)
        finally:
            self._close()
        return replies(raw)

    def _raw_answer(self, raw: bytes) -> bytes:
        if self._wire is None:
            self._wire = Wire(self._server)
        self._wire.send(raw.replace(CURRENT.encode(), self._current))
        answer = self._wire.raw_answer(method := raw.split(b" ", 1)[0].decode())
        if answer.startswith(b"HTTP/1.1 100 "):
            answer += self._wire.raw_answer(method)
        if found := _TAG.search(answer):
            self._current = found[1]
        if self._apart:
            self._close()
        elif b"\r\nconnection: close\r\n" in answer:
            assert not self._wire.rest(), "bytes after the last answer"
            self._close()
        return answer

    def _close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def check_same(pair: Pair, namespace: str, requests: list[bytes]) -> None:
    """Both servers answer these requests alike, and so they do the second time."""
    asgi, live = (Recorder(server, namespace).replies(requests) for server in pair)
    assert len(asgi) == len(live), f"{transcript(asgi)}\n---\n{transcript(live)}"
    for number, (expected, actual) in enumerate(zip(asgi, live, strict=True)):
        assert actual.equals(expected), (
            f"answer {number}: not the first but the second is\n{transcript([expected, actual])}"
        )


def test_the_servers_differ(pair: Pair):
    """One has the fast path and the other has not, or nothing here would mean anything."""
    for server, fast_path in zip(pair, (False, True), strict=True):
        with Wire(server) as wire:
            info = wire.send(request("GET", "/v1/info")).answer().json()
        assert info["fast_path"] is fast_path


@pytest.mark.parametrize("name", EXCHANGES)
def test_exchange(pair: Pair, namespace: str, name: str):
    """Whatever is asked, the answers are the same with and without the fast path."""
    check_same(pair, namespace, EXCHANGES[name])


@pytest.mark.parametrize("name", GUARDED)
def test_exchange_with_a_token(
    pair_with: Callable[[Mapping[str, str]], Pair], namespace: str, name: str
):
    """Who may come in is the same with and without the fast path."""
    check_same(pair_with(GUARD), namespace, GUARDED[name])


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("no more memory", LITTLE_MEMORY),
        ("no more namespaces", ONE_NAMESPACE),
    ],
)
def test_exchange_with_a_full_cache(
    pair_with: Callable[[Mapping[str, str]], Pair],
    namespace: str,
    name: str,
    limit: Mapping[str, str],
):
    """What a full cache refuses is the same with and without the fast path."""
    pair = pair_with(limit)
    check_same(pair, namespace, EXCHANGES["a time to live"])
    check_same(pair, namespace, FULL[name])


def test_everything_occurs(
    pair: Pair, pair_with: Callable[[Mapping[str, str]], Pair], namespace: str
):
    """The exchanges have every status that the table of routes knows, and every kind of problem."""
    tables = (
        (pair, EXCHANGES),
        (pair_with(GUARD), {"some": GUARDED["now with the token and now without"]}),
        (pair_with(LITTLE_MEMORY), {"some": FULL["no more memory"]}),
        (pair_with(ONE_NAMESPACE), {"some": [*EXCHANGES["numbers"], *FULL["no more namespaces"]]}),
    )
    kinds, statuses = set[bytes](), set[tuple[str, int]]()
    for (asgi, _), table in tables:
        for requests in table.values():
            found = [r for r in Recorder(asgi, namespace).replies(requests) if r.status != 100]
            kinds.update(kind for reply in found for kind in _KIND.findall(reply.body))
            statuses.update(
                (operation, reply.status)
                for raw, reply in zip(requests, found, strict=True)
                if (operation := operation_of(raw)) is not None
            )
    known = {(route.operation, status) for route in ROUTES for status in route.statuses}
    assert known - statuses == {("readiness", 503), ("incr", 503), ("append", 503)}
    assert {kind.slug.encode() for kind in ANSWERED} <= kinds


def operation_of(raw: bytes) -> str | None:
    """Return the operation of the route that a request is for."""
    method, target = raw.split(b" ", 2)[:2]
    found = RouteTable(ROUTES).find(target.partition(b"?")[0])
    route = None if found is None else found.resource.routes.get(method.decode())
    return None if route is None else route.operation


def test_what_is_counted(pair_with: Callable[[Mapping[str, str]], Pair], namespace: str):
    """Requests, hits, misses, writes and conflicts are counted the same."""
    pair = pair_with({"CACHESERVER_STRIPES": "16"})  # which nobody else has asked anything
    asgi, live = (counts(server, namespace) for server in pair)
    assert asgi == live
    assert sum(asgi.values()) > 1000


def counts(server: RunningServer, namespace: str) -> dict[str, float]:
    """Have exchanges with a server that nobody else asks; return what it has counted."""
    for name in COUNTED:
        Recorder(server, namespace).replies(EXCHANGES[name])
    with Wire(server) as wire:
        lines = wire.send(request("GET", "/metrics")).answer().body.decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if _COUNT.match(line))
    return {name: float(value) for name, value in samples}


def test_the_date_is_of_today(pair: Pair):
    """The date is that of the answer, to two seconds, also when more than that has gone by."""
    for pause in (0.0, 3.1):
        time.sleep(pause)
        for server in pair:
            with Wire(server) as wire:
                date = wire.send(request("GET", "/v1/kv/nobody/k")).answer().headers["date"]
            assert abs(parsedate_to_datetime(date).timestamp() - time.time()) <= 2


def test_a_time_to_live_is_told_at_once(pair: Pair, namespace: str):
    """A value that was written just now with 100 seconds to live has 99 whole ones left."""
    for server in pair:
        found = Recorder(server, namespace).replies(EXCHANGES["a time to live"])
        assert found[1].max_age == 99, transcript(found)


@pytest.mark.parametrize("name", EXCHANGES)
def test_exchange_under_granian(planes: Planes, pair: Pair, namespace: str, name: str):
    """The app alone gives the same statuses, headers and bodies behind another server."""
    if name in NOT_UNDER_GRANIAN:
        pytest.skip(NOT_UNDER_GRANIAN[name])
    granian = planes.start("granian", SETTINGS)
    asgi, other = (
        [apart_from_the_server(r) for r in recorder.replies(EXCHANGES[name]) if r.status != 100]
        for recorder in (Recorder(pair[0], namespace), Recorder(granian, namespace, apart=True))
    )
    for number, (expected, actual) in enumerate(zip(asgi, other, strict=True)):
        assert actual == expected, number


def apart_from_the_server(reply: Reply) -> tuple[int, list[bytes], bytes]:
    """A reply without what every server decides for itself."""
    lines = reply.head.rstrip(b"\r\n").split(b"\r\n")[1:]
    headers = [line for line in lines if line.split(b":", 1)[0] not in _GRANIANS_OWN]
    return reply.status, sorted(headers), reply.body
