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
        line = self._file.readline()
        if not line:
            raise AssertionError("the connection was closed instead of an answer")
        version, status, *_ = line.split(b" ", 2)
        assert version == b"HTTP/1.1", line
        headers = dict(iter(self._header, ("", "")))
        bodiless = method == "HEAD" or status in (b"204", b"304", b"100")
        length = 0 if bodiless else int(headers["content-length"])
        body = self._file.read(length)
        assert len(body) == length, "the answer was cut off"
        return WireAnswer(int(status), headers, body)

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

    def _header(self) -> tuple[str, str]:
        name, _, value = self._file.readline().decode("latin-1").rstrip("\r\n").partition(": ")
        return name.lower(), value


def request(method: str, target: str, body: bytes | None = None, /, **headers: str) -> bytes:
    """Return a request; a header's name is given with underscores for dashes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")
