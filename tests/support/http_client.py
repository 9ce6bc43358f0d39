"""Clients that send requests byte for byte as a test writes them, to an app or over a socket.

All have one interface, so that one test can be run against each. They know nothing of what is
tested, and check what every answer of every server must keep to: a length that is right, no body
where none belongs, one start and one end.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Final, Protocol, Self
from urllib.parse import unquote

TIMEOUT: Final = 20.0

type Headers = Sequence[tuple[str, str | bytes]]
type Body = bytes | Iterable[bytes]
"""Bytes go with a Content-Length; an iterable goes in chunks, without one."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes

    def header(self, name: str) -> str | None:
        """A header that must not be there twice, None where it is absent."""
        values = [value for header, value in self.headers if header == name]
        assert len(values) <= 1, f"{name} stands {len(values)} times: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    @property
    def version(self) -> int:
        """The version that the ETag tells."""
        etag = self.header("etag")
        assert etag is not None
        assert etag[0] == etag[-1] == '"'
        return int(etag[1:-1])


class Client(Protocol):
    """Sends requests, byte for byte."""

    def request(
        self, method: str, target: str | bytes, headers: Headers = (), body: Body = b""
    ) -> Answer:
        """Send a request and return its answer."""

    def announce(
        self, method: str, target: str | bytes, size: int, headers: Headers = ()
    ) -> Answer:
        """Announce a body with `Expect: 100-continue` and send none; fail if it is asked for."""

    def abandon(self, method: str, target: str | bytes, size: int, sent: bytes) -> None:
        """Announce `size` bytes, send fewer and leave; return when the server has noticed."""

    def watch(self, target: str, events: int, headers: Headers = ()) -> Answer:
        """GET an answer without an end, and leave it after so many server-sent events."""

    def close(self) -> None:
        """Give back what the client holds."""


class AppClient:
    """Calls an ASGI app, with the scopes that uvicorn would make, on an event loop of its own."""

    def __init__(self, app: Any, *, prefix: bytes = b"", root_path: str = "") -> None:
        self._app = app
        self._prefix = prefix  # of targets, as a client of a mounted app writes it
        self._root_path = root_path  # as in `uvicorn --root-path`
        self._runner = asyncio.Runner()

    def request(
        self, method: str, target: str | bytes, headers: Headers = (), body: Body = b""
    ) -> Answer:
        """Send a request and return its answer."""
        pieces = [body] if isinstance(body, bytes) else list(body)
        raw = _raw_headers(headers)
        if isinstance(body, bytes) and (body or method in ("PUT", "POST")):
            raw.append((b"content-length", b"%d" % len(body)))
        elif not isinstance(body, bytes):
            raw.append((b"transfer-encoding", b"chunked"))
        return self._exchange(method, target, raw, _messages(pieces))

    def announce(
        self, method: str, target: str | bytes, size: int, headers: Headers = ()
    ) -> Answer:
        """Announce a body with `Expect: 100-continue` and send none; fail if it is asked for."""
        raw = [*_raw_headers(headers), (b"content-length", b"%d" % size)]
        return self._exchange(method, target, [*raw, (b"expect", b"100-continue")], iter(()))

    def abandon(self, method: str, target: str | bytes, size: int, sent: bytes) -> None:
        """Announce `size` bytes, send fewer and leave; return when the server has noticed."""
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": sent, "more_body": True},
            {"type": "http.disconnect"},
        ]
        exchange = _Exchange(iter(messages))
        raw = [(b"content-length", b"%d" % size)]
        self._run(self._scope(method, target, raw), exchange)
        assert not exchange.sent, "an answer to a client that is gone"

    def watch(self, target: str, events: int, headers: Headers = ()) -> Answer:
        """GET an answer without an end, and leave it after so many server-sent events."""
        exchange = _Watching(events)
        self._run(self._scope("GET", target, _raw_headers(headers)), exchange)
        return exchange.answer("GET")

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    def _exchange(
        self,
        method: str,
        target: str | bytes,
        headers: list[tuple[bytes, bytes]],
        messages: Iterator[dict[str, Any]],
    ) -> Answer:
        exchange = _Exchange(messages)
        self._run(self._scope(method, target, headers), exchange)
        return exchange.answer(method)

    def _run(self, scope: dict[str, Any], exchange: _Exchange) -> None:
        async def call() -> None:
            async with asyncio.timeout(TIMEOUT):
                await self._app(scope, exchange.receive, exchange.send)

        try:
            self._runner.run(call())
        except Exception:
            if not exchange.complete:  # else the server would log the error and go on
                raise

    def _scope(
        self, method: str, target: str | bytes, headers: list[tuple[bytes, bytes]]
    ) -> dict[str, Any]:
        path, _, query = (self._prefix + _raw(target)).partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 50000),
            "scheme": "http",
            "method": method,
            "root_path": self._root_path,
            "path": self._root_path + unquote(path.decode("latin-1")),
            "raw_path": self._root_path.encode() + path,
            "query_string": query,
            "headers": [(b"host", b"cache.test"), *headers],
            "state": {},
        }


class _Exchange:
    """One request's messages, in both directions, with the rules that they keep to."""

    def __init__(self, messages: Iterator[dict[str, Any]]) -> None:
        self._messages = messages
        self.sent: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        return len(self.sent) > 1 and not self.sent[-1].get("more_body", False)

    async def receive(self) -> dict[str, Any]:
        message = next(self._messages, None)
        assert message is not None, "the app asked for a body that the client holds back"
        return message

    async def send(self, message: dict[str, Any]) -> None:
        assert not self.complete, "a message after the end of the answer"
        expected = "http.response.body" if self.sent else "http.response.start"
        assert message["type"] == expected
        self.sent.append(message)

    def answer(self, method: str) -> Answer:
        assert self.complete, "no complete answer"
        start, *parts = self.sent
        headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in start["headers"])
        assert all(name == name.lower() for name, _ in headers)
        answer = Answer(start["status"], headers, b"".join(p.get("body", b"") for p in parts))
        return _checked(method, answer)


class _Watching(_Exchange):
    """A request whose client leaves after so many server-sent events."""

    def __init__(self, events: int) -> None:
        super().__init__(iter([{"type": "http.request"}]))
        self._events = events
        self._enough = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        message = next(self._messages, None)
        if message is None:
            await self._enough.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: dict[str, Any]) -> None:
        await super().send(message)
        received = b"".join(part.get("body", b"") for part in self.sent)
        if received.count(b"\n\n") >= self._events:
            self._enough.set()


class SocketClient:
    """Speaks HTTP/1.1 over one connection that stays open for as long as the server lets it.

    Where an answer says that it is the last, the server must close, unless it is known not to.
    """

    def __init__(self, host: str, port: int, *, closes: bool = True) -> None:
        self._address = (host, port)
        self._closes = closes
        self._socket: socket.socket | None = None

    def request(
        self, method: str, target: str | bytes, headers: Headers = (), body: Body = b""
    ) -> Answer:
        """Send a request and return its answer."""
        extra: list[tuple[bytes, bytes]] = []
        if isinstance(body, bytes):
            if body or method in ("PUT", "POST"):
                extra.append((b"content-length", b"%d" % len(body)))
            payload = body
        else:
            extra.append((b"transfer-encoding", b"chunked"))
            payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body if piece)
            payload += b"0\r\n\r\n"
        self._send(_head(method, target, headers, extra) + payload)
        return self._receive(method)

    def announce(
        self, method: str, target: str | bytes, size: int, headers: Headers = ()
    ) -> Answer:
        """Announce a body with `Expect: 100-continue` and send none; fail if it is asked for."""
        extra = [(b"content-length", b"%d" % size), (b"expect", b"100-continue")]
        self._send(_head(method, target, headers, extra))
        answer = self._receive(method)
        self.close()  # for the server may still wait for the body
        return answer

    def abandon(self, method: str, target: str | bytes, size: int, sent: bytes) -> None:
        """Announce `size` bytes, send fewer and leave; return when the server has noticed."""
        self._send(_head(method, target, (), [(b"content-length", b"%d" % size)]) + sent)
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(4096):
            pass
        self.close()

    def watch(self, target: str, events: int, headers: Headers = ()) -> Answer:
        """GET an answer without an end, and leave it after so many server-sent events."""
        self._send(_head("GET", target, headers, []))
        assert self._socket is not None
        response = _ResponseWithoutInterim(self._socket, method="GET")
        response.begin()
        lines: list[bytes] = []
        while lines.count(b"\n") < events:
            lines.append(response.readline())
            assert lines[-1], "the stream ended"
        response.close()
        self.close()
        received = tuple((name.lower(), value) for name, value in response.getheaders())
        return _checked("GET", Answer(response.status, received, b"".join(lines)))

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, request: bytes) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)

    def _receive(self, method: str) -> Answer:
        assert self._socket is not None
        response = _ResponseWithoutInterim(self._socket, method=method)
        response.begin()
        with response:
            body = response.read()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        if response.will_close:
            assert not (self._closes and self._socket.recv(1)), "bytes after the end of the answer"
            self.close()
        return _checked(method, Answer(response.status, headers, body))


class _ResponseWithoutInterim(HTTPResponse):
    """Takes `100 Continue` for a failure: no client here asks to be told to go on."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        assert status != 100, "the server asked for a body that it should refuse"
        return version, status, reason


def _checked(method: str, answer: Answer) -> Answer:
    length = answer.header("content-length")
    if answer.header("content-type") == "text/event-stream":
        assert length is None, "a length of what has no end"
        assert method != "HEAD" or not answer.body
    elif method == "HEAD" or answer.status in (204, 304):
        assert not answer.body, f"a body in an answer to {method} with status {answer.status}"
        assert (length is None) == (answer.status in (204, 304))
    else:
        assert length is not None, "an answer without Content-Length"
        assert int(length) == len(answer.body)
    return answer


def _messages(pieces: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for piece in pieces[:-1]:
        yield {"type": "http.request", "body": piece, "more_body": True}
    yield {"type": "http.request", "body": pieces[-1] if pieces else b"", "more_body": False}


def _raw(target: str | bytes) -> bytes:
    return target.encode("ascii") if isinstance(target, str) else target


def _raw_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode(), value.encode("latin-1") if isinstance(value, str) else value)
        for name, value in headers
    ]


def _head(
    method: str, target: str | bytes, headers: Headers, extra: list[tuple[bytes, bytes]]
) -> bytes:
    text = io.BytesIO()
    text.write(b"%b %b HTTP/1.1\r\nhost: cache.test\r\n" % (method.encode(), _raw(target)))
    for name, value in [*_raw_headers(headers), *extra]:
        text.write(b"%b: %b\r\n" % (name, value))
    text.write(b"\r\n")
    return text.getvalue()
