"""Sends streams to servers with and without the fast path, and compares all that comes of it."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.fuzz.mutate import Mutator, Stream, portions, smallest
from tests.fuzz.sides import IDLE_TIMEOUT, SPACING, Side, Sides
from tests.fuzz.wire import Pipe
from tests.support.clock import MONOTONIC

MOST_TRIES: Final = 1_500
"""Streams that are tried to make a failure smaller."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n")
_CLOSE: Final = b"\r\nconnection: close\r\n"
_TIMES: Final = re.compile(rb"(\r\nserver-timing: [^\r]*?dur=)[0-9.]+([^\r]*?dur=)[0-9.]+")
_NUMBERS: Final = re.compile(rb"[0-9]+|'[^']*'|b\\\"[^\\]*\\\"")
_RUNS: Final = re.compile(rb"((.)\2{20})\2+")
_PROBLEM: Final = b"\r\ncontent-type: application/problem+json\r\n"


class Wrong(Exception):
    """A server did what none may do, or two did not do the same."""


@dataclass(slots=True)
class Heard:
    """What came of a stream at one server."""

    sent: bytes
    """All that the server sent, up to the end of the stream."""
    state: tuple[bool, bool]
    """At the end of the stream: whether the server had ended the connection, and whether it read on."""
    last: bytes
    """What it sent when the client ended the connection, or time ran out, or the server stopped."""
    is_lost: bool
    """Whether the client was gone at the end of the stream."""
    contents: dict[str, Any]
    requests: Counter[tuple[str, int]]
    """How many were counted, by method and status; none where the server ended the connection."""


class Campaign:
    """Streams of one seed, for a number of requests. Use it as a context manager."""

    def __init__(self, seed: int, before: Callable[[Stream], object] = lambda stream: None) -> None:
        """`before` is told each stream before it is sent: whoever crashes on it has told."""
        self._before = before
        self._mutator = Mutator(seed)
        self._sides = Sides()
        self._errors = _Errors()
        self._seen: set[bytes] = set()
        self._begins = MONOTONIC
        self.requests = 0
        """Requests that were answered by the server without the fast path."""
        self.streams = 0
        self.statuses: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._sides.__enter__()
        self._errors.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._errors.__exit__()
        self._sides.__exit__()

    def run(
        self,
        requests: int,
        seconds: float = 1e9,
        tell: Callable[[Self], object] = lambda campaign: None,
    ) -> None:
        """Send streams until so many requests are answered, or so long. Wrong where any goes wrong."""
        end = time.monotonic() + seconds
        told = time.monotonic()
        while self.requests < requests and (now := time.monotonic()) < end:
            stream = self._mutator.stream()
            self._before(stream)
            self._note(stream, self.send(stream))
            if now - told > 10:
                told = now
                tell(self)

    def send(self, stream: Stream) -> bytes:
        """Send a stream to the servers that it is for; return what they answered. Wrong where it differs."""
        self._begins += SPACING
        reference, fast, other = self._sides.of(stream.settings)
        expected = self._hear(reference, stream, stream.cuts)
        _check_same("with the fast path", expected, self._hear(fast, stream, stream.cuts))
        if stream.cuts == stream.recut:
            return expected.sent + expected.last
        recut = self._hear(other, stream, stream.recut)
        if _is_same(expected, recut):
            return expected.sent + expected.last
        # How it is cut may matter where a request is answered before it has come whole.
        _check_legal(expected, recut)
        self._begins += SPACING
        _check_same(
            "with the fast path, cut in the second way",
            self._hear(reference, stream, stream.recut),
            self._hear(fast, stream, stream.recut),
        )
        return expected.sent + expected.last

    def shares(self) -> tuple[int, int]:
        """How many requests the apps have answered: of the servers without, and with the fast path."""
        return self._sides.shares()

    @property
    def kept(self) -> int:
        """How many streams the corpus has."""
        return len(self._mutator)

    def _hear(self, side: Side, stream: Stream, cuts: tuple[int, ...]) -> Heard:
        """Send a stream to one server, from an empty store on, and to its end."""
        raw = stream.raw(side.begin(self._begins))
        pipe = side.connect(stream.room)
        try:
            heard = self._converse(side, pipe, stream, portions(raw, cuts, dict(stream.pauses)))
        finally:
            pipe.close()
            self._sides.loop.run()
            errors = self._errors_so_far()
        if errors:
            raise Wrong(f"something failed: {errors}")
        if side.connections():
            raise Wrong("a connection is left that has ended")
        return heard

    def _converse(
        self, side: Side, pipe: Pipe, stream: Stream, reads: Iterable[tuple[int, bytes]]
    ) -> Heard:
        pauses = dict(stream.pauses)
        pipe.settle()
        side.pass_time(pauses.get(0, 0.0))
        for end, portion in reads:
            if not pipe.has_ended:
                if not pipe.reading:
                    raise Wrong("the server has stopped reading, and waits for nothing")
                pipe.receive(portion)
            side.pass_time(pauses.get(end, 0.0))
        sent = bytes(pipe.sent)
        state = pipe.has_ended, pipe.reading or pipe.has_ended
        # Of a request that is refused it depends on when the app began with it whether it is counted.
        requests = Counter[tuple[str, int]]() if pipe.has_ended else side.requests()
        if stream.ending == "drain":
            side.drain()
        elif stream.ending == "eof":
            pipe.end()
        if stream.ending in ("drain", "idle"):
            self._sides.loop.advance(2 * IDLE_TIMEOUT)
            pipe.settle()
        last = bytes(pipe.sent[len(sent) :])
        if b"server-timing: " in sent:
            sent = _TIMES.sub(rb"\1*\2*", sent)
        return Heard(sent, state, last, stream.ending == "lost", side.contents(), requests)

    def _errors_so_far(self) -> list[object]:
        errors: list[object] = [*self._sides.loop.errors, *self._errors.messages]
        self._sides.loop.errors.clear()
        self._errors.messages.clear()
        return errors

    def _note(self, stream: Stream, sent: bytes) -> None:
        """Count the answers, and keep the stream where one of them is of a kind not seen before."""
        self.streams += 1
        is_new = False
        for head, body in replies(sent):
            status = int(head[9:12])
            if status == 100:
                continue
            if status == 500:
                raise Wrong(f"an answer is {head!r} {body!r}")
            self.requests += 1
            self.statuses[status] = self.statuses.get(status, 0) + 1
            kind = _NUMBERS.sub(b"", head) + (_NUMBERS.sub(b"", body) if _PROBLEM in head else b"")
            mark = kind[:300]
            if mark not in self._seen:
                self._seen.add(mark)
                is_new = True
        if is_new:
            self._mutator.keep(stream)


class _Errors(logging.Handler):
    """Collects what is logged as an error."""

    _LOGGERS: Final = ("cacheserver", "uvicorn.error")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.messages.append(f"{record.getMessage()}: {error!r}")

    def __enter__(self) -> Self:
        for name in self._LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._LOGGERS:
            logging.getLogger(name).removeHandler(self)


def replies(sent: bytes) -> list[tuple[bytes, bytes]]:
    """Split what a server sent into heads and bodies, as far as it can be split.

    Where a HEAD was answered there is none: it is told by what follows.
    """
    found, at = [], 0
    while sent.startswith(b"HTTP/1.1 ", at):
        body_at = sent.find(b"\r\n\r\n", at) + 4
        if body_at < 4:
            break
        head = sent[at:body_at]
        at = body_at
        length = _LENGTH.search(head)
        if length is not None and at < len(sent) and not sent.startswith(b"HTTP/1.1 ", at):
            at += int(length[1])
        found.append((head, sent[body_at:at]))
    return found


def _is_same(expected: Heard, actual: Heard) -> bool:
    """Tell whether two servers did the same.

    The fast path keeps a head that has not ended, and gives it to the parser when the client ends: so what
    is no HTTP may be refused only then. Where the client is gone at once nobody hears of it. And how
    much of an endless head is too much depends on the read in which it begins.
    """
    if expected.contents != actual.contents:
        return False
    if expected.sent == actual.sent:
        same = expected.state == actual.state and expected.last == actual.last
        return same and expected.requests == actual.requests
    short, long = sorted((expected.sent + expected.last, actual.sent + actual.last), key=len)
    more = long[len(short) :]
    if expected.is_lost or more.startswith(b"HTTP/1.1 431"):
        return long.startswith(short) and _is_refusal(more)
    refused = expected.sent[len(actual.sent) :] or actual.sent[len(expected.sent) :]
    return expected.sent + expected.last == actual.sent + actual.last and _is_refusal(refused)


def _is_refusal(sent: bytes) -> bool:
    return sent.startswith(b"HTTP/1.1 4") and len(replies(sent)) == 1 and _CLOSE in sent


def _check_same(who: str, expected: Heard, actual: Heard) -> None:
    """Raise Wrong unless both are the same to the byte."""
    if _is_same(expected, actual):
        return
    told = []
    for part in Heard.__slots__:
        one, two = getattr(expected, part), getattr(actual, part)
        if one != two:
            told.append(
                f"{part}, by the app:\n    {_shown(one)[:2_000]}\n  {who}:\n    {_shown(two)[:2_000]}"
            )
    raise Wrong("\n  ".join(told))


def _check_legal(expected: Heard, actual: Heard) -> None:
    """Raise Wrong unless two servers that got the same in other portions may differ like this.

    One may have answered a request of which a part had not come yet. The connection then ends with that
    answer, for the rest of a body that nobody reads can't be told from a request. So the answers
    are the same up to one which is the last for one of them, and says so; for the other it is the same
    but for that, or the last as well: a refusal of what came.
    """
    one, two = replies(expected.sent + expected.last), replies(actual.sent + actual.last)
    for mine, other in zip(one, two, strict=False):
        if mine == other:
            continue
        ends, other_ends = (
            _CLOSE in reply[0] and reply == among[-1]
            for reply, among in ((mine, one), (other, two))
        )
        if ends and other_ends:
            return
        if (ends or other_ends) and _unclosed(mine) == _unclosed(other):
            return
        break
    _check_same("with the fast path, cut otherwise", expected, actual)


def _unclosed(reply: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    return reply[0].replace(_CLOSE, b"\r\n"), reply[1]


def _shown(part: object) -> str:
    if isinstance(part, bytes):
        return "\n    ".join(
            f"{head!r} {body[:300]!r}" + f"... ({len(body)} bytes)" * (len(body) > 300)
            for head, body in replies(part)
        ) or repr(part[:1_000])
    return _RUNS.sub(rb"\1...", repr(part).encode()).decode()[:3_000]


def _shortened(piece: bytes) -> str:
    return repr(piece) if len(piece) < 400 else f"{piece[:300]!r}... ({len(piece)} bytes)"


@dataclass(frozen=True)
class Finding:
    """A stream that went wrong, and the smallest like it that was found."""

    stream: Stream
    """The smallest that was found."""
    wrong: str
    is_alone: bool
    """Whether servers that have seen nothing else go wrong with it."""

    def __str__(self) -> str:
        stream = self.stream
        lines = [f"settings {stream.settings}, ending {stream.ending}, room {stream.room:g}"]
        lines += [f"  {_shortened(piece)}" for piece in stream.pieces]
        lines += [f"  cuts {stream.cuts}, recut {stream.recut}, pauses {stream.pauses}"]
        alone = "" if self.is_alone else " (only after those before it)"
        return "\n".join([f"WRONG{alone}: {self.wrong}", *lines])


def shrink(stream: Stream) -> Finding:
    """Return the smallest stream like this that goes wrong, of those that were tried."""
    wrong = _tried(stream)
    if wrong is None:
        return Finding(stream, "new servers take it well: it needs what came before", False)
    smaller = _smallest(stream)
    found = _tried(smaller)
    return Finding(stream, wrong, True) if found is None else Finding(smaller, found, True)


def _smallest(stream: Stream) -> Stream:
    left = MOST_TRIES

    def is_wrong(candidate: Stream) -> bool:
        nonlocal left
        left -= 1
        return left > 0 and bool(candidate.pieces) and _sent(campaign, candidate) is not None

    with Campaign(0) as campaign:
        return smallest(stream, is_wrong)


def _tried(stream: Stream) -> str | None:
    """Send a stream to new servers; return what is wrong."""
    with Campaign(0) as campaign:
        return _sent(campaign, stream)


def _sent(campaign: Campaign, stream: Stream) -> str | None:
    try:
        campaign.send(stream)
    except Exception as error:
        return str(error) if isinstance(error, Wrong) else repr(error)
    return None
