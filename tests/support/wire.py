"""A client that sends exactly the bytes it is told, and reads answers one by one."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Self

from tests.support.server import RunningServer


@dataclass(frozen=True)
class WireAnswer:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to a server. Whatever doesn't come within `timeout` seconds fails the test."""

    def __init__(self, to: RunningServer | socket.socket, timeout: float = 20.0) -> None:
        if isinstance(to, socket.socket):
            self.socket = to
        else:
            self.socket = socket.create_connection((to.host, to.port), timeout)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> Self:
        self.socket.sendall(b"".join(pieces))
        return self

    def answer(self, method: str = "GET") -> WireAnswer:
        """Read one answer to a request with that method."""
        return _parsed(self.raw_answer(method))

    def raw_answer(self, method: str = "GET") -> bytes:
        """Read one answer to a request with that method, as it came."""
        head = self.head()
        answer = _parsed(head)
        bodiless = method == "HEAD" or answer.status in (100, 204, 304)
        length = 0 if bodiless else int(answer.headers["content-length"])
        body = self._file.read(length)
        assert len(body) == length, "the answer was cut off"
        return head + body

    def chunk(self) -> bytes:
        """Read one piece of a chunked answer, nothing at its end."""
        size = int(self._file.readline(), 16)
        piece = self._file.read(size)
        assert self._file.readline() == b"\r\n", "a chunk of another length"
        return piece

    def head(self) -> bytes:
        """Read the head of an answer, as it came."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                raise AssertionError(f"the connection was closed instead of an answer: {head!r}")
            head += line
        return head

    def peek(self) -> bytes:
        """Wait for what comes next and leave it there; nothing where the server closes."""
        return self._file.peek(1)

    def rest(self) -> bytes:
        """Read until the server closes."""
        return self._file.read()

    def finish(self) -> None:
        """Close the sending half."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parsed(raw: bytes) -> WireAnswer:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = line.split(" ", 2)
    assert version in ("HTTP/1.1", "HTTP/1.0"), line
    headers = dict(line.split(": ", 1) for line in lines)
    return WireAnswer(int(status), {name.lower(): v for name, v in headers.items()}, body)


def request(method: str, target: str, body: bytes | None = None, /, **headers: str) -> bytes:
    """Return a request; a header's name is given with underscores for dashes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
