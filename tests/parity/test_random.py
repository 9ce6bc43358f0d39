"""Random conversations, pipelined and cut at random, with and without the fast path."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings

from tests.parity.conftest import MAX_VALUE_SIZE, NAMESPACE, Pair, fresh, next_namespace
from tests.parity.strategies import (
    BEHIND_HEAD,
    Conversation,
    Cut,
    Request,
    Write,
    conversations,
    with_versions,
)
from tests.parity.streams import Reply, replies, transcript
from tests.support.server import RunningServer
from tests.support.threads import start
from tests.support.wire import Wire, request

_SETTINGS: Final = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def pair(pair_with: Callable[[Mapping[str, str]], Pair]) -> Pair:
    """Servers for many namespaces: fewer stripes make `/metrics` shorter."""
    return pair_with({"CACHESERVER_STRIPES": "8"})


def get(target: str) -> Request:
    return Request("GET", target, ("Host: test",), None)


KEY: Final = get(f"/v1/kv/{NAMESPACE}/a")
BEHIND_A_SLOW_ONE: Final = Conversation(
    (KEY, KEY, KEY, get("/metrics"), KEY, KEY, get("/metrics"), get("/nothing"), KEY),
    (Cut(4, 0, True), Cut(5, 500, True), Cut(7, 0, True), Cut(8, 0, True)),
)
LIKE_A_REQUEST: Final = Conversation(
    (KEY, KEY, KEY, KEY, Request("PUT", KEY.target, KEY.lines, bytes(KEY) * 3), KEY),
    (*(Cut(n, 0, True) for n in (1, 2, 3)), Cut(4, BEHIND_HEAD, True), Cut(5, 0, True)),
)
"""A body that would be a request if it began one, by which time its head has become known."""


@_SETTINGS
@example(conversation=LIKE_A_REQUEST)
@example(conversation=BEHIND_A_SLOW_ONE)
@given(conversation=conversations())
def test_conversation(pair: Pair, conversation: Conversation):
    """Whatever is sent, and however it is cut, both servers send the same bytes."""
    namespace = next_namespace()
    asgi, live = (start(partial(hold, server, namespace, conversation)) for server in pair)
    check_same(conversation, asgi.result(), live.result())


def test_late_reader(pair: Pair):
    """A client that sends all its requests before it reads anything gets the same answers."""
    small, large = (request("GET", f"/v1/kv/{NAMESPACE}/{key}") for key in ("small", "large"))
    stored = (
        request("PUT", f"/v1/kv/{NAMESPACE}/small", b"s"),
        request("PUT", f"/v1/kv/{NAMESPACE}/large", b"l" * MAX_VALUE_SIZE),
    )
    metrics, last = request("GET", "/metrics"), request("GET", "/healthz", Connection="close")
    raw = b"".join([*stored, *(small * 500 + large * 50 for _ in range(4)), metrics, small, last])
    namespace = next_namespace()
    asgi, live = (answers_read_late(server, fresh(raw, namespace)) for server in pair)
    assert len(asgi) == 2 + 4 * 550 + 3
    for number, (expected, actual) in enumerate(zip(asgi, live, strict=True)):
        assert actual.equals(expected), f"{number}: {transcript([expected, actual])}"


def answers_read_late(server: RunningServer, raw: bytes) -> list[Reply]:
    with Wire(server) as wire:
        sending = start(partial(send, wire, [Write(raw, 0.0)]))
        time.sleep(0.3)
        received, _ = read_to_the_end(wire)
        sending.result()
    return replies(received)


@dataclass(frozen=True)
class Heard:
    """What a server sent on one connection."""

    replies: list[Reply]
    was_reset: bool
    """Whether the connection broke instead of ending."""


def hold(server: RunningServer, namespace: str, conversation: Conversation) -> Heard:
    """Send all of it while reading all that comes, to the end of the connection."""
    with Wire(server) as wire:
        wire.send(request("PUT", f"/v1/kv/{namespace}/a", b"first", Content_Type="text/plain"))
        first = int(wire.answer().headers["etag"].strip('"'))
    raw = b"".join(with_versions(fresh(raw, namespace), first) for raw in conversation.pieces())
    with Wire(server) as wire:
        sending = start(partial(send, wire, conversation.writes(raw)))
        received, was_reset = read_to_the_end(wire)
        sending.result()
    return Heard(replies(received, first, cut_off=was_reset), was_reset)


def send(wire: Wire, writes: Sequence[Write]) -> None:
    try:
        for write in writes:
            wire.send(write.data)
            if write.pause:
                time.sleep(write.pause)
    except OSError:
        pass  # the server has ended the connection; what it said before is there to be read


def read_to_the_end(wire: Wire) -> tuple[bytes, bool]:
    """Return all that comes, and whether the connection broke instead of ending."""
    received = bytearray()
    try:
        while data := wire.socket.recv(1 << 18):
            received += data
    except ConnectionError:
        return bytes(received), True
    except TimeoutError:
        raise AssertionError(f"no end after {bytes(received[-3000:])!r}") from None
    return bytes(received), False


def check_same(conversation: Conversation, asgi: Heard, live: Heard) -> None:
    """Fail unless both sent the same.

    Two differences are legal, and depend on how the kernels hand the bytes over:
    - When a request is answered of which a part has not come yet, the connection ends with that
      answer, for the rest of a body that nobody reads can't be told from a request. So where a body
      may have come in parts, one server may end the connection and the other go on; what goes on is
      not compared.
    - When a client goes on sending after the request that is to be the last, the kernel may reset the
      connection, and answers that the client has not read are lost. The last one is not compared.
    """
    number = 0  # of the request that is answered
    for expected, actual in zip_longest(asgi.replies, live.replies):
        if expected is None or actual is None:
            short, long = (asgi, live) if expected is None else (live, asgi)
            assert short.was_reset, told(number, asgi, live)
            assert long.was_reset or long.replies[-1].closes, told(number, asgi, live)
            assert number < len(conversation.requests), told(number, asgi, live)
            return
        if not actual.equals(expected):
            assert is_legal(conversation, number, expected, actual), told(number, asgi, live)
            ended = asgi if expected.closes else live
            assert ended.replies[-1] in (expected, actual), told(number, asgi, live)
            return
        number += expected.status != 100


def told(number: int, asgi: Heard, live: Heard) -> str:
    """Say what was heard of whom."""
    return (
        f"the answers to request {number} differ\n"
        f"--- without the fast path (reset: {asgi.was_reset})\n{transcript(asgi.replies)}\n"
        f"--- with it (reset: {live.was_reset})\n{transcript(live.replies)}\n"
    )


def is_legal(conversation: Conversation, number: int, expected: Reply, actual: Reply) -> bool:
    """Tell whether two answers to one request differ only because its body came late or not."""
    if number >= len(conversation.requests):
        return False
    request = conversation.requests[number]
    return (
        isinstance(request, Request)
        and request.has_body
        and conversation.may_arrive_in_part(number)
        and expected.closes != actual.closes
        and expected.unclosed.equals(actual.unclosed)
    )
