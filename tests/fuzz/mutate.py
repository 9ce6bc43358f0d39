"""Makes streams of requests out of those of a corpus."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from tests.fuzz.corpus import (
    BODIES,
    HEADERS,
    METHODS,
    PARAMETERS,
    PLAIN,
    RARE_BODIES,
    SEEDS,
    TARGETS,
    TOKENS,
    VERSION_MARK,
)
from tests.fuzz.sides import SETTINGS

MOST_PIECES: Final = 24
"""Requests of a stream."""
MOST_BYTES: Final = 200_000
"""Of a stream."""
MOST_STREAMS: Final = 3_000
"""That the corpus keeps; beyond, a new one takes the place of one that is drawn."""

ENDINGS: Final = ("eof", "lost", "idle", "drain")
"""How a connection ends: the client closes its half, or all; or sends nothing for long; or the server stops."""

_MARK: Final = re.compile(VERSION_MARK + rb"([0-9])")


class _How(NamedTuple):
    """What may be done to a request."""

    changes: int
    """So many of the changes of `_change_well`."""
    names: tuple[bytes, ...]
    """The headers that are put in or get other values."""
    targets: tuple[bytes, ...]
    parameters: tuple[bytes, ...]
    values: int
    """So many of each header's values, of which the first are the most usual."""


_USUAL: Final = (b"If-Match", b"If-None-Match", b"Content-Type", b"Accept", b"traceparent")
_HARMLESS: Final = tuple(
    name
    for name in HEADERS
    if name not in (b"Host", b"Content-Length", b"A b", b"", b"Connection", b"Transfer-Encoding")
)
_PLAIN: Final = _How(8, (*_USUAL, b"Cookie", b"If", b"Hos"), TARGETS[:7], PARAMETERS[:3], 6)
_ODD: Final = _How(8, (*_USUAL * 5, *_HARMLESS), TARGETS, PARAMETERS, 99)
_WILD: Final = _How(10, (*_USUAL * 5, *HEADERS), TARGETS, PARAMETERS, 99)
_BLANKS: Final = (b"", b" ", b"  ", b"\t", b" \t ")


@dataclass(frozen=True, slots=True)
class Stream:
    """What is sent on one connection, and how."""

    settings: str
    """One of SETTINGS: to which servers."""
    pieces: tuple[bytes, ...]
    """Requests, or what is left of them."""
    cuts: tuple[int, ...] = ()
    """Where one read of the server ends and the next begins."""
    recut: tuple[int, ...] = ()
    """The same, for the server that gets the bytes in other portions."""
    pauses: tuple[tuple[int, float], ...] = ()
    """Behind how many bytes so many seconds go by: there both are cut."""
    room: float = 1e9
    """Bytes of answers beyond which the client makes the server wait."""
    ending: str = "eof"

    def raw(self, first_version: int) -> bytes:
        """All its bytes, with versions in the place of their marks."""
        raw = b"".join(self.pieces)
        if VERSION_MARK not in raw:
            return raw
        return _MARK.sub(lambda mark: b"%d" % (first_version + int(mark[1])), raw)

    def text(self) -> str:
        """As what `from_text` reads."""
        return repr(tuple(getattr(self, name) for name in self.__slots__))

    @classmethod
    def from_text(cls, text: str) -> Stream:
        return cls(*ast.literal_eval(text))


class Mutator:
    """A corpus of streams, and new ones made of it. What it does depends on the seed alone."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._streams: list[tuple[bytes, ...]] = [(seed,) for seed in SEEDS]

    def __len__(self) -> int:
        return len(self._streams)

    def keep(self, stream: Stream) -> None:
        """Add a stream that showed something new."""
        if len(self._streams) < MOST_STREAMS:
            self._streams.append(stream.pieces)
        else:
            self._streams[self._random.randrange(len(SEEDS), MOST_STREAMS)] = stream.pieces

    def stream(self) -> Stream:
        """Return a new stream."""
        rng = self._random
        settings = rng.choice(tuple(SETTINGS))
        pieces = self._pieces(settings)
        ends = [0]
        for piece in pieces:
            ends.append(ends[-1] + len(piece))
        length = ends[-1]
        pauses: tuple[tuple[int, float], ...] = ()
        if rng.random() < 0.05:
            pauses = ((rng.choice(ends), rng.choice((0.5, 5.0, 59.75, 3600.0))),)
        cuts = self._cuts(ends, pieces)
        return Stream(
            settings,
            pieces,
            cuts,
            self._cuts(ends, pieces) if rng.random() < 0.5 else cuts,
            pauses,
            rng.choice((0, 500, 65_536)) if rng.random() < 0.05 else 1e9,
            "eof" if rng.random() < 0.7 or not length else rng.choice(ENDINGS),
        )

    def _pieces(self, settings: str) -> tuple[bytes, ...]:
        rng = self._random
        plain = rng.random() < 0.7
        pieces = [] if plain or rng.random() < 0.4 else list(rng.choice(self._streams))
        while len(pieces) < MOST_PIECES and rng.random() < 0.93:
            seeds = PLAIN if plain else SEEDS
            chosen = rng.choice(seeds if plain or rng.random() < 0.5 else self._any_stream())
            pieces.insert(rng.randint(0, len(pieces)), chosen)
        pieces = pieces or [SEEDS[0]]
        # What is no request ends the connection. So few are made such, and most behind others.
        wild = set()
        if rng.random() < 0.6:
            wild.add(len(pieces) - 1)
            if rng.random() < 0.4:
                wild.add(rng.randrange(len(pieces)))
        token = settings == "token" and rng.random() < 0.9
        changed = [
            self._changed(piece, _WILD if at in wild else _PLAIN if plain else _ODD, token)
            for at, piece in enumerate(pieces)
        ]
        while sum(map(len, changed)) > MOST_BYTES:
            changed.remove(max(changed, key=len))
        return tuple(changed)

    def _any_stream(self) -> tuple[bytes, ...]:
        return self._random.choice(self._streams)

    # One request

    def _changed(self, piece: bytes, how: _How, token: bool) -> bytes:
        rng = self._random
        head, blank, body = piece.partition(b"\r\n\r\n")
        if blank:
            line, *headers = head.split(b"\r\n")
            for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
                line, body = self._change_well(line, headers, body, how)
            if token and not any(b"uthorization:" in header for header in headers):
                headers.append(b"Authorization: " + HEADERS[b"Authorization"][0])
            piece = b"\r\n".join([line, *headers]) + blank + body
        if how is not _WILD:
            return piece
        changed = bytearray(piece)
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 6))):
            self._change_bytes(changed)
        return bytes(changed)

    def _change_well(
        self, line: bytes, headers: list[bytes], body: bytes, how: _How
    ) -> tuple[bytes, bytes]:
        """Change a request so that it stays one, or, if it may be wild, that it may do so."""
        rng = self._random
        what = rng.randrange(how.changes)
        at = rng.randint(0, len(headers))
        if what == 0:
            rng.shuffle(headers)
        elif what == 1 and headers:
            at = rng.randrange(len(headers))
            headers[at] = self._respelled(headers[at])
        elif what <= 3:
            headers.insert(at, self._header(rng.choice(how.names), how.values))
        elif what == 4:
            usual = [each for each in headers if each.partition(b":")[0] in how.names]
            if usual:
                changed = rng.choice(usual)
                headers[headers.index(changed)] = self._header(
                    changed.partition(b":")[0], how.values
                )
        elif what == 5:
            line = self._with_target(line, how.targets)
        elif what == 6:
            start, version = line[: line.rfind(b" ")], line[line.rfind(b" ") :]
            mark = b"&" if b"?" in start else b"?"
            line = start + mark + rng.choice(how.parameters) + version
        elif what == 7:
            return line, self._with_body(headers, 0 if how is _PLAIN else 0.25)
        elif what == 8 and headers:
            if rng.random() < 0.5:
                headers.append(rng.choice(headers))
            else:
                del headers[rng.randrange(len(headers))]
        else:
            line = rng.choice(METHODS) + line[line.find(b" ") :]
        return line, body

    def _header(self, name: bytes, values: int) -> bytes:
        rng = self._random
        return name + b":" + rng.choice(_BLANKS[:2]) + rng.choice(HEADERS[name][:values])

    def _respelled(self, header: bytes) -> bytes:
        """Return a header line as another client might write it."""
        rng = self._random
        name, colon, value = header.partition(b":")
        name = rng.choice((name.lower(), name.upper(), name.title(), name.swapcase()))
        return name + colon + rng.choice(_BLANKS) + value.strip(b" \t") + rng.choice(_BLANKS)

    def _with_target(self, line: bytes, targets: tuple[bytes, ...]) -> bytes:
        rng = self._random
        method, _, rest = line.partition(b" ")
        query = rest[rest.find(b"?") : rest.rfind(b" ")] if b"?" in rest else b""
        return method + b" " + rng.choice(targets) + query + rest[rest.rfind(b" ") :]

    def _with_body(self, headers: list[bytes], chunked: float) -> bytes:
        """Give a request another body and make its headers fit. Returns what follows the head."""
        rng = self._random
        framing = (b"content-length", b"transfer-encoding")
        headers[:] = [each for each in headers if not each.lower().startswith(framing)]
        body = rng.choice(BODIES if rng.random() < 0.95 else RARE_BODIES)
        if rng.random() < chunked:
            headers.append(b"Transfer-Encoding: chunked")
            size = rng.choice((1, 3, 7, 1_000, 100_000))
            size = max(size, len(body) // 50)
            chunks = (body[at : at + size] for at in range(0, len(body), size))
            return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
        headers.insert(rng.randint(0, len(headers)), b"Content-Length: %d" % len(body))
        return body

    def _change_bytes(self, piece: bytearray) -> None:
        """Change a few bytes, whatever they are, mostly of the head."""
        rng = self._random
        head = piece.find(b"\r\n\r\n") + 4
        end = head if head > 3 and rng.random() < 0.85 else len(piece)
        at = rng.randint(0, end)
        how = rng.randrange(8)
        if how == 0 and at < len(piece):
            piece[at] ^= 1 << rng.randrange(8)
        elif how == 1 and at < len(piece):
            piece[at] = rng.randrange(256)
        elif how == 2:
            piece[at:at] = bytes((rng.randrange(256),))
        elif how == 3:
            del piece[at : at + rng.choice((1, 1, 2, 4, 20))]
        elif how == 4:
            size = rng.choice((1, 2, 10, 50))
            piece[at:at] = piece[at : at + size] * rng.choice((1, 1, 2, 30))
        elif how == 5:
            other = rng.choice(self._any_stream())
            start = rng.randint(0, len(other))
            piece[at : at + rng.choice((0, 5, 50))] = other[start : start + rng.choice((2, 9, 90))]
        elif how == 6:
            token = rng.choice(TOKENS)
            piece[at : at + len(token)] = token
        else:
            piece[at:at] = rng.choice(TOKENS)

    # How it is sent

    def _cuts(self, ends: list[int], pieces: tuple[bytes, ...]) -> tuple[int, ...]:
        rng = self._random
        length = ends[-1]
        how = rng.randrange(20)
        cuts: set[int] = set()
        if how < 8:
            cuts.update(ends)
        elif how < 10:
            cuts.update(rng.randint(0, length) for _ in range(rng.choice((1, 1, 2, 3, 8))))
        elif how < 12:  # about where something ends or begins
            for start, piece in zip(ends, pieces, strict=False):
                body = start + piece.find(b"\r\n\r\n") + 4
                cuts.add(rng.choice((start, body)) + rng.choice((-2, -1, 0, 1, 2)))
        elif how == 12:  # one of them byte by byte
            at = rng.randrange(len(pieces))
            cuts.update(range(ends[at], min(ends[at + 1], ends[at] + 500)))
        elif how == 13:
            size = rng.choice((2, 3, 7, 16, 100, 1_000))
            cuts.update(range(0, length, max(size, length // 100)))
        return tuple(sorted(cut for cut in cuts if 0 < cut < length))


def smallest(stream: Stream, is_wrong: Callable[[Stream], bool]) -> Stream:
    """Return a stream that is wrong as well, and simpler wherever a simpler one is wrong too."""
    changes: tuple[dict[str, Any], ...] = (
        {"recut": stream.cuts},
        {"cuts": stream.recut},
        {"cuts": ()},
        {"recut": ()},
        {"pauses": ()},
        {"room": 1e9},
        {"ending": "eof"},
    )
    for change in changes:
        candidate = replace(stream, **change)
        if candidate != stream and is_wrong(candidate):
            stream = candidate
    ends = [0, *accumulate(map(len, stream.pieces))]
    for start, end in reversed([*pairwise(ends)]):
        if is_wrong(candidate := _without(stream, start, end)):
            stream = candidate
    size = sum(map(len, stream.pieces)) // 2
    while size:
        at = 0
        while at < sum(map(len, stream.pieces)):
            candidate = _without(stream, at, at + size)
            if is_wrong(candidate):
                stream = candidate
            else:
                at += size
        size //= 2
    for name in ("cuts", "recut"):
        for cut in getattr(stream, name):
            left = tuple(each for each in getattr(stream, name) if each != cut)
            change = {name: left}
            if is_wrong(candidate := replace(stream, **change)):
                stream = candidate
    return stream


def _without(stream: Stream, start: int, end: int) -> Stream:
    """Return a stream without the bytes between two places; cuts behind them move along."""
    end = min(end, sum(map(len, stream.pieces)))
    pieces, at = [], 0
    for piece in stream.pieces:
        left = max(0, min(len(piece), start - at))
        right = max(0, min(len(piece), end - at))
        if rest := piece[:left] + piece[right:]:
            pieces.append(rest)
        at += len(piece)

    def moved(cut: int) -> int:
        return cut if cut <= start else max(start, cut - (end - start))

    return replace(
        stream,
        pieces=tuple(pieces),
        cuts=tuple(sorted({moved(cut) for cut in stream.cuts})),
        recut=tuple(sorted({moved(cut) for cut in stream.recut})),
        pauses=tuple((moved(at), seconds) for at, seconds in stream.pauses),
    )


def portions(
    raw: bytes, cuts: tuple[int, ...], pauses: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """Return the reads in which a server gets the bytes, each with where it ends."""
    inside = sorted(cut for cut in {*cuts, *pauses} if 0 < cut < len(raw))
    for start, end in pairwise((0, *inside, len(raw))):
        yield end, raw[start:end]
