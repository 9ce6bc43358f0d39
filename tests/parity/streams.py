"""What servers sent, split into replies and made comparable.

Two servers that do the same at nearly the same time may differ in nothing but:
- the value of `date`;
- versions, which count from the microsecond in which the namespace was made: what is compared is how
  far each is from the first one;
- `max-age`, by one second;
- what `/metrics`, `/v1/info`, the list of all namespaces, and what is told of locks, hot keys and slow
  operations tell of their process;
- the times in `server-timing`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_VERSION: Final = re.compile(rb"(?<![0-9])[0-9]{16}(?![0-9])")
_CUT_VERSION: Final = re.compile(rb"(?<![0-9])[0-9]{1,15}(?=' is neither)")
"""The beginning of a version, where a detail shows 64 characters of what was wrong."""
_DATE: Final = re.compile(rb"(?m)^date: [^\r]+")
_LENGTH: Final = re.compile(rb"(?m)^content-length: ([0-9]+)")
_MAX_AGE: Final = re.compile(rb"(?m)^cache-control: max-age=([0-9]+)")
_TIMES: Final = re.compile(rb"(?m)^(server-timing: .*dur=)[0-9.]+(.*dur=)[0-9.]+")
_OF_THE_PROCESS: Final = (
    b"# HELP cacheserver_",
    b'{"namespaces":[',
    b'{"seconds":',
    b'{"threshold_seconds":',
)
_DAY: Final = 86_400 * 10**6
_BODILESS: Final = (100, 204, 304)


@dataclass(frozen=True)
class Reply:
    """One answer, or one `100 Continue`, byte for byte but for what may differ."""

    head: bytes
    """Up to and with the empty line."""
    body: bytes
    max_age: int = 0

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def closes(self) -> bool:
        """Whether it says that it is the last one."""
        return b"\r\nconnection: close\r\n" in self.head

    @property
    def unclosed(self) -> Reply:
        """The same without saying that it is the last one."""
        head = self.head.replace(b"\r\nconnection: close\r\n", b"\r\n")
        return Reply(head, self.body, self.max_age)

    def equals(self, other: Reply) -> bool:
        """Tell whether the two are the same but for a second of `max-age`."""
        same = (self.head, self.body) == (other.head, other.body)
        return same and abs(self.max_age - other.max_age) <= 1


def replies(raw: bytes, first_version: int | None = None, *, cut_off: bool = False) -> list[Reply]:
    """Split all that came on one connection; fail where the last reply is not whole.

    Where the stream was `cut_off` its last reply is left out: nobody knows whether it is whole.

    No value that is stored may begin like an answer: that is how a body is told from none. Without
    a `first_version` it is the one that comes first.
    """
    versions = _Versions(first_version)
    whole = _split(raw[: raw.rfind(b"HTTP/1.")] if cut_off and raw else raw)
    return [_comparable(reply, versions) for reply in whole]


def transcript(replies: Sequence[Reply]) -> str:
    """Return replies for people to read, long bodies cut."""
    return "\n".join(
        f"[{number}] {reply.head!r}\n    {_shortened(reply.body)}"
        for number, reply in enumerate(replies)
    )


def _shortened(body: bytes) -> str:
    return repr(body) if len(body) < 500 else f"{body[:200]!r}... ({len(body)} bytes)"


def _split(raw: bytes) -> list[Reply]:
    found, at = [], 0
    while at < len(raw):
        assert raw.startswith(b"HTTP/1.", at), f"not an answer: {raw[at : at + 200]!r}"
        body_at = raw.find(b"\r\n\r\n", at) + 4
        assert body_at > 3, f"a head that ends in the middle: {raw[at:]!r}"
        reply = Reply(raw[at:body_at], b"")
        at = body_at
        if reply.status not in _BODILESS and not raw.startswith(b"HTTP/1.", at) and at < len(raw):
            length = _LENGTH.search(reply.head)
            assert length is not None, f"an answer without a length: {reply.head!r}"
            at += int(length[1])
            assert at <= len(raw), f"an answer cut off: {reply.head!r} {raw[body_at:]!r}"
            reply = Reply(reply.head, raw[body_at:at])
        found.append(reply)
    return found


def _comparable(reply: Reply, versions: _Versions) -> Reply:
    head, body = _DATE.sub(b"date: *", reply.head), reply.body
    head = _TIMES.sub(rb"\1*\2*", head)
    body = _CUT_VERSION.sub(b"<cut>", body)
    age = _MAX_AGE.search(head)
    head = _MAX_AGE.sub(b"cache-control: max-age=*", head)
    if _tells_of_the_process(head, body):
        head, body = _LENGTH.sub(b"content-length: *", head), b"*"
    return Reply(versions.relative(head), versions.relative(body), int(age[1]) if age else 0)


def _tells_of_the_process(head: bytes, body: bytes) -> bool:
    if body:
        return b'"uptime_seconds":' in body or body.startswith(_OF_THE_PROCESS)
    # An answer to HEAD: of a stored value it would have a tag.
    types = (b"content-type: application/json\r\n", b"content-type: text/plain; version=")
    return b"\r\netag: " not in head and any(line in head for line in types)


class _Versions:
    def __init__(self, first: int | None) -> None:
        self._first = first
        self._now = time.time_ns() // 1000

    def relative(self, text: bytes) -> bytes:
        return _VERSION.sub(self._replaced, text)

    def _replaced(self, match: re.Match[bytes]) -> bytes:
        version = int(match[0])
        if abs(version - self._now) > _DAY:
            return match[0]
        if self._first is None:
            self._first = version
        return b"<first%+d>" % (version - self._first)
