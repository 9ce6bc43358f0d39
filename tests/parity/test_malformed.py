"""Malformed and hostile bytes: refused as RFC 9112 asks, the same with and without the fast path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import pytest

from tests.parity.conftest import NAMESPACE, SETTINGS, Pair, fresh
from tests.parity.streams import Reply, replies, transcript
from tests.server.test_protocol import MALFORMED
from tests.support.planes import Planes
from tests.support.server import RunningServer
from tests.support.wire import Wire, WireAnswer, request

KV: Final = f"/v1/kv/{NAMESPACE}/"
HOST: Final = b"Host: test\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
PUT: Final = b"PUT %bk HTTP/1.1\r\n" % KV.encode() + HOST
GET: Final = b"GET %bk HTTP/1.1\r\n" % KV.encode() + HOST
SMUGGLED: Final = request("PUT", f"{KV}smuggled", b"x")
AGAIN: Final = request("GET", f"{KV}k")
LAST: Final = request("GET", "/healthz", Connection="close")


class Row(NamedTuple):
    """What is sent, and what RFC 9112 has a server answer."""

    section: str
    raw: bytes
    statuses: tuple[int, ...]
    """Of all answers, in order."""
    closes: bool = True
    """Whether the connection must end with the last answer; else it must serve one more request."""
    ends: bool = False
    """Whether the client closes its sending half."""


def put(*lines: bytes, body: bytes = b"") -> bytes:
    return PUT + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(*lines: bytes) -> bytes:
    return GET + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def line(first: bytes) -> bytes:
    return first.replace(b"KV", KV.encode()) + b"\r\n" + HOST + b"\r\n"


def incr(*lines: bytes, body: bytes = b"") -> bytes:
    head = put(*lines).replace(b"PUT /v1/kv/", b"POST /v1/incr/").replace(b"/k ", b"/n ")
    return head + body


def chunks(body: bytes) -> bytes:
    return PUT + CHUNKED + b"\r\n" + body


REFUSED: Final = (400,)

ROWS: Final[dict[str, Row]] = {
    # The length of the body
    "both lengths": Row("6.1", put(b"Content-Length: 5", CHUNKED[:-2], body=b"0\r\n\r\n"), REFUSED),
    "both lengths, smuggling behind the chunks": Row(
        "6.1", put(b"Content-Length: 4", CHUNKED[:-2], body=b"0\r\n\r\n" + SMUGGLED), REFUSED
    ),
    "both lengths, smuggling behind the length": Row(
        "6.1", put(CHUNKED[:-2], b"Content-Length: 6", body=b"0\r\n\r\nX" + SMUGGLED), REFUSED
    ),
    "two lengths": Row(
        "6.3", put(b"Content-Length: 5", b"Content-Length: 6", body=b"12345"), REFUSED
    ),
    "one length twice": Row("6.3", put(*[b"Content-Length: 5"] * 2, body=b"12345"), REFUSED),
    "a list of equal lengths": Row("6.3", put(b"Content-Length: 5, 5", body=b"12345"), REFUSED),
    **{
        f"a length of {text!r}": Row("6.3", put(b"Content-Length: " + text, body=b"12345"), REFUSED)
        for text in (
            *(b"-5", b"+5", b"0x5", b"5a", b"5 5", b"", b"5.0", b"\xb2", b'"5"', b"5;", b"\x0b5"),
            *(b"18446744073709551616", b"99999999999999999999999"),
        )
    },
    "a length of nearly 64 bits": Row("6.3", put(b"Content-Length: 18446744073709551615"), (413,)),
    **{
        f"a coding of {text!r}": Row(
            "6.1", put(b"Transfer-Encoding: " + text, body=b"0\r\n\r\n"), REFUSED
        )
        for text in (
            *(b"xchunked", b"chunked, identity", b"identity", b"identity, chunked", b"gzip", b""),
            *(b"chunked, chunked", b"chunked;q=1", b'"chunked"', b"\x0bchunked", b"chunked\x00"),
            *(b"chun ked", b",chunked", b"x, chunked"),
        )
    },
    "chunked twice": Row("6.1", put(CHUNKED[:-2], CHUNKED[:-2], body=b"0\r\n\r\n"), REFUSED),
    "a coding with a blank before the colon": Row(
        "5.1", put(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED), REFUSED
    ),
    "chunks by HTTP/1.0": Row(
        "6.1", chunks(b"1\r\na\r\n0\r\n\r\n").replace(b"/1.1", b"/1.0"), (204,)
    ),
    # Chunks
    **{
        f"a chunk size of {size!r}": Row("7.1", chunks(size + b"\r\na\r\n0\r\n\r\n"), REFUSED)
        for size in (b"", b"-1", b"+1", b"0x1", b"g", b" 1", b"1 1", b"10000000000000000", b"\x001")
    },
    "a chunk size with a blank behind it": Row("7.1", chunks(b"1 \r\na\r\n0\r\n\r\n"), REFUSED),
    "a chunk shorter than said": Row("7.1", chunks(b"5\r\na\r\n0\r\n\r\n"), REFUSED),
    "a chunk longer than said": Row("7.1", chunks(b"1\r\nabc\r\n0\r\n\r\n"), REFUSED),
    "a chunk that ends in a bare LF": Row("7.1", chunks(b"1\r\na\n0\r\n\r\n"), REFUSED),
    "a chunk size that ends in a bare LF": Row("7.1", chunks(b"1\na\r\n0\r\n\r\n"), REFUSED),
    "a chunk extension": Row(
        "7.1.1", chunks(b'1;a=b;c="d"\r\na\r\n0;x\r\n\r\n') + AGAIN, (204, 200), closes=False
    ),
    "a chunk extension with a bare LF": Row("7.1.1", chunks(b"1;a\nb\r\na\r\n0\r\n\r\n"), REFUSED),
    "a bad trailer": Row("7.1.2", chunks(b"1\r\na\r\n0\r\nA b: c\r\n\r\n"), REFUSED),
    "chunks that never end": Row("8", chunks(b"1\r\na\r\n"), (408,)),
    "chunks that end with the connection": Row("8", chunks(b"1\r\na\r\n"), (), ends=True),
    # Lines
    "bare LF everywhere": Row("2.2", get().replace(b"\r\n", b"\n"), REFUSED),
    "bare LF after the request line": Row("2.2", get().replace(b"\r\n", b"\n", 1), REFUSED),
    "bare LF after a header": Row("2.2", GET + b"A: b\nC: d\r\n\r\n", REFUSED),
    "bare LF at the end of the head": Row("2.2", GET + b"\n", REFUSED),
    "bare CR in a header": Row("2.2", get(b"A: b\rC: d"), REFUSED),
    "bare CR in the request line": Row("2.2", line(b"GET KVk\r HTTP/1.1"), REFUSED),
    "CR CR LF": Row("2.2", get(b"A: b\r"), REFUSED),
    "an empty line before the request": Row("2.2", b"\r\n" + get(), (200,), closes=False),
    # Headers
    "NUL in a header": Row("5.5", get(b"A: b\0c"), REFUSED),
    "NUL in a name": Row("5.1", get(b"A\0: b"), REFUSED),
    "a control character in a header": Row("5.5", get(b"A: b\x01c"), REFUSED),
    "DEL in a header": Row("5.5", get(b"A: b\x7fc"), REFUSED),
    "a folded header": Row("5.2", get(b"A: b", b" c"), REFUSED),
    "a folded length": Row("5.2", put(b"Content-Length:", b" 5", body=b"12345"), REFUSED),
    "a blank before the first header": Row(
        "2.2", b"GET %bk HTTP/1.1\r\n " % KV.encode() + HOST + b"\r\n", REFUSED
    ),
    "a blank before the colon": Row("5.1", get(b"A : b"), REFUSED),
    "a header without a name": Row("5.1", get(b": b"), REFUSED),
    "a header without a colon": Row("5", get(b"Abc"), REFUSED),
    "a name that is no token": Row("5.1", get(b"A(b): c"), REFUSED),
    "a name beyond ASCII": Row("5.1", get(b"\xc3\xa4: c"), REFUSED),
    "no host": Row("3.2", b"GET %bk HTTP/1.1\r\n\r\n" % KV.encode(), REFUSED),
    "two hosts": Row("3.2", get(b"Host: other"), REFUSED),
    "the same host twice": Row("3.2", get(b"Host: test"), REFUSED),
    # The request line
    "HTTP/0.9": Row("2.3", b"GET %bk\r\n" % KV.encode(), (408,)),
    "HTTP/0.9 in numbers": Row("2.3", line(b"GET KVk HTTP/0.9"), REFUSED),
    "HTTP/1.2": Row("2.3", line(b"GET KVk HTTP/1.2"), REFUSED),
    "HTTP/2.0": Row("2.3", line(b"GET KVk HTTP/2.0"), REFUSED),
    "HTTP/1.10": Row("2.3", line(b"GET KVk HTTP/1.10"), REFUSED),
    "HTTP/11": Row("2.3", line(b"GET KVk HTTP/11"), REFUSED),
    "http/1.1": Row("2.3", line(b"GET KVk http/1.1"), REFUSED),
    "the preface of HTTP/2": Row("2.3", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "TLS": Row("3", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(40), REFUSED),
    "a method in lower case": Row("3.1", line(b"get KVk HTTP/1.1"), REFUSED),
    "a method unknown": Row("3.1", line(b"FETCH KVk HTTP/1.1"), REFUSED),
    "a method cut short": Row("3.1", line(b"GE KVk HTTP/1.1"), REFUSED),
    "TRACE": Row("9110 9.3.8", line(b"TRACE KVk HTTP/1.1"), (405,), closes=False),
    "CONNECT": Row("3.2.3", line(b"CONNECT KVk HTTP/1.1"), (405,), closes=False),
    "CONNECT to a host": Row("3.2.3", line(b"CONNECT test:443 HTTP/1.1"), REFUSED),
    "a blank before the method": Row("3", line(b" GET KVk HTTP/1.1"), REFUSED),
    "two blanks in the line": Row("3", line(b"GET  KVk HTTP/1.1"), (200,), closes=False),
    "a tab in the line": Row("3", line(b"GET\tKVk HTTP/1.1"), REFUSED),
    "a blank in the target": Row("3.2", line(b"GET KVk k HTTP/1.1"), REFUSED),
    "a blank at the end": Row("3", line(b"GET KVk HTTP/1.1 "), REFUSED),
    "a fragment": Row("3.2", line(b"GET KVk#a HTTP/1.1"), REFUSED),
    "NUL in the target": Row("3.2", line(b"GET KVk\0 HTTP/1.1"), REFUSED),
    "a control character in the target": Row("3.2", line(b"GET KVk\x01 HTTP/1.1"), REFUSED),
    "a byte beyond ASCII in the target": Row("3.2", line(b"GET KV\xe4 HTTP/1.1"), REFUSED),
    "a byte beyond ASCII in the query": Row("3.2", line(b"GET KVk?\xe4 HTTP/1.1"), REFUSED),
    "no target": Row("3", line(b"GET  HTTP/1.1"), REFUSED),
    "a target without a slash": Row("3.2", line(b"GET k HTTP/1.1"), REFUSED),
    "a URL of another scheme": Row(
        "3.2.2", line(b"GET ftp://testKVk HTTP/1.1"), (200,), closes=False
    ),
    # Too much
    "a target of 17 KiB": Row("3", line(b"GET KV" + b"k" * 17_000 + b" HTTP/1.1"), (414,)),
    "70 KiB of headers": Row("5", get(b"A: " + b"b" * 70_000), (431,)),
    "12,000 headers": Row("5", get(*[b"A: b"] * 12_000), (431,)),
    "2,000 headers": Row("5", get(*[b"A: b"] * 2_000), (200,), closes=False),
    # More or less than was said
    "a body longer than said": Row(
        "6.3", put(b"Content-Length: 2", body=b"123\r\n\r\n"), (204, 400)
    ),
    "a body that is followed by a request": Row(
        "6.3", put(b"Content-Length: 2", body=b"12") + AGAIN, (204, 200), closes=False
    ),
    "a body shorter than said": Row("8", put(b"Content-Length: 6", body=b"12345"), (408,)),
    "a body shorter than said, then the end": Row(
        "8", put(b"Content-Length: 6", body=b"12345"), (), ends=True
    ),
    "a head that never ends": Row("8", GET, (408,)),
    "a head that ends with the connection": Row("8", GET, (), ends=True),
    "a line that never ends": Row("8", b"GET /", (408,)),
    "whole requests, then half a one": Row("8", AGAIN + AGAIN + GET, (200, 200, 408)),
    "whole requests, then half a one and the end": Row(
        "8", AGAIN + AGAIN + GET, (200, 200), ends=True
    ),
    "garbage behind a request": Row("3", AGAIN + b"garbage\r\n\r\n", (200, 400)),
    "garbage behind a request that writes": Row(
        "3", put(b"Content-Length: 2", body=b"12") + b"\0", (204, 400)
    ),
    "garbage behind a slow request": Row(
        "3", request("GET", "/metrics") + b"garbage\r\n\r\n", (200, 400)
    ),
    "a bad head behind a slow request": Row(
        "3", request("GET", "/metrics") + AGAIN + get(b"A : b") + AGAIN, (200, 200, 400)
    ),
    "a bad chunk behind a slow request": Row(
        "7.1", request("GET", "/metrics") + chunks(b"zz\r\n") + AGAIN, (200, 400)
    ),
    "a bad head between good ones": Row("5.1", AGAIN + get(b"A : b") + SMUGGLED, (200, 400)),
    "a request behind the last one": Row("9.6", get(b"Connection: close") + SMUGGLED, (200,)),
    "a request as a body": Row(
        "6.3",
        put(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED) + AGAIN,
        (204, 200),
        closes=False,
    ),
    "a request as a body of GET": Row(
        "6.3",
        get(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED + AGAIN,
        (200, 200),
        closes=False,
    ),
    "a request in chunks of GET": Row(
        "6.3",
        GET + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED) + AGAIN,
        (200, 200),
        closes=False,
    ),
    "both lengths of another verb": Row(
        "6.1", incr(b"Content-Length: 4", CHUNKED[:-2], body=b"0\r\n\r\n" + SMUGGLED), REFUSED
    ),
    "two lengths of another verb": Row(
        "6.3", incr(b"Content-Length: 0", b"Content-Length: 5"), REFUSED
    ),
    "another verb between two others": Row(
        "3", AGAIN + incr() + AGAIN, (200, 200, 200), closes=False
    ),
    "a request behind a verb that takes no body": Row(
        "6.3", incr(b"Content-Length: 0") + AGAIN, (200, 200), closes=False
    ),
    "a request as a body where none is taken": Row(
        "6.3",
        incr(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED) + AGAIN,
        (400, 200),
        closes=False,
    ),
    "a bad head behind another verb": Row("5.1", incr() + get(b"A : b") + SMUGGLED, (200, 400)),
    "a bad head behind a change of the namespace": Row(
        "5.1",
        request("POST", f"/v1/namespaces/{NAMESPACE}/nothing") + get(b"A : b") + SMUGGLED,
        (404, 400),
    ),
    "the same head again, and a bad one": Row(
        "5.1", AGAIN * 5 + AGAIN.replace(b"Host: ", b"Host : ") + SMUGGLED, (200,) * 5 + REFUSED
    ),
    "the same head again, and a second host": Row(
        "3.2", get() * 5 + get(b"Host: other") + SMUGGLED, (200,) * 5 + REFUSED
    ),
    **{name: Row("see the test of the protocol", raw, REFUSED) for name, raw in MALFORMED.items()},
}

TAKEN_BY_GRANIAN: Final[dict[str, str]] = {
    "both lengths": "chunks win",
    "both lengths, smuggling behind the chunks": "chunks win, and the connection stays open",
    "both lengths, smuggling behind the length": "chunks win, and the connection stays open",
    "both lengths of another verb": "chunks win, and the connection stays open",
    "one length twice": "equal lengths are one",
    "a coding of b'identity, chunked'": "only the last coding counts",
    "a coding of b'chunked, chunked'": "only the last coding counts",
    "a coding of b',chunked'": "only the last coding counts",
    "a coding of b'x, chunked'": "only the last coding counts",
    "chunked twice": "only the last coding counts",
    "a chunk size with a blank behind it": "the blank is skipped",
    "bare LF everywhere": "a bare LF ends a line",
    "bare LF after the request line": "a bare LF ends a line",
    "bare LF after a header": "a bare LF ends a line",
    "bare LF at the end of the head": "a bare LF ends a line",
    "the same host twice": "Host is not looked at",
    "the same head again, and a second host": "Host is not looked at",
    "70 KiB of headers": "its limit is higher",
}
"""What granian's parser takes for a request, and how it reads it."""


@pytest.fixture(scope="module")
def impatient(pair_with: Callable[[Mapping[str, str]], Pair]) -> Pair:
    """Servers that wait one second for a client, without the fast path and with it."""
    return pair_with({"CACHESERVER_IDLE_TIMEOUT": "1"})


@pytest.mark.parametrize("name", ROWS)
def test_row(pair: Pair, impatient: Pair, namespace: str, name: str):
    """Each is answered as it should be, by both servers alike, and harms nobody."""
    row = ROWS[name]
    expected = row.statuses if row.closes else (*row.statuses, 200)
    servers = impatient if 408 in row.statuses else pair
    asgi, live = (send_row(server, row, namespace) for server in servers)
    assert tuple(reply.status for reply in asgi) == expected, transcript(asgi)
    assert len(live) == len(asgi), f"{transcript(asgi)}\n---\n{transcript(live)}"
    for one, other in zip(asgi, live, strict=True):
        assert other.equals(one), f"{transcript(asgi)}\n---\n{transcript(live)}"
    assert row.ends or asgi[-1].closes, transcript(asgi)


def send_row(server: RunningServer, row: Row, namespace: str) -> list[Reply]:
    """Send a row; check that nothing but what was answered with 204 has changed the store."""
    version = store(server, namespace)
    with Wire(server) as bystander:
        raw = fresh(row.raw if row.closes else row.raw + LAST, namespace)
        found = replies(all_that_comes(server, raw, ends=row.ends), version)
        if 408 not in row.statuses:  # else the bystander has waited too long as well
            assert stored(bystander, namespace, "k").status == 200
    with Wire(server) as later:
        value = stored(later, namespace, "k")
        assert value.body == b"untouched" or 204 in row.statuses
        assert stored(later, namespace, "smuggled").status == 404
    assert "Traceback" not in server.stderr_text()
    return found


def store(server: RunningServer, namespace: str) -> int:
    """Store the value that a hostile request may change; return its version."""
    with Wire(server) as wire:
        wire.send(fresh(request("PUT", f"{KV}k", b"untouched"), namespace))
        return int(wire.answer().headers["etag"].strip('"'))


def stored(wire: Wire, namespace: str, key: str) -> WireAnswer:
    """Ask for a value."""
    return wire.send(fresh(request("GET", KV + key), namespace)).answer()


def all_that_comes(server: RunningServer, raw: bytes, *, ends: bool) -> bytes:
    """Send bytes; return all that comes until the server closes."""
    with Wire(server) as wire:
        try:
            wire.send(raw)
            if ends:
                wire.finish()
        except OSError:
            pass  # refused before it was sent to the end
        return wire.rest()


def until_silence(server: RunningServer, raw: bytes, seconds: float = 0.3) -> bytes:
    """Send bytes; return what comes until the server closes or has nothing to say for a while."""
    heard = b""
    with Wire(server) as wire:
        wire.socket.settimeout(seconds)
        try:
            wire.send(raw)
            while more := wire.socket.recv(1 << 16):
                heard += more
        except OSError:
            pass  # silent, or gone
    return heard


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if 408 not in row.statuses])
def test_row_under_granian(planes: Planes, namespace: str, name: str):
    """Under granian none is answered with success where it must not, nor what is hidden in it."""
    if name in TAKEN_BY_GRANIAN:
        pytest.skip(f"granian: {TAKEN_BY_GRANIAN[name]}")
    row = ROWS[name]
    granian = planes.start("granian", SETTINGS)
    store(granian, namespace)
    found = replies(until_silence(granian, fresh(row.raw, namespace)))
    good = sum(reply.status in (200, 204) for reply in found)
    expected = sum(status in (200, 204) for status in row.statuses)
    assert good <= expected, transcript(found)
    with Wire(granian) as later:
        assert stored(later, namespace, "smuggled").status == 404
    assert "Traceback" not in granian.stderr_text()
