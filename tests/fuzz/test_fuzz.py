"""A short run of the fuzzing (see `__main__`), and streams that once went wrong."""

from __future__ import annotations

import random
from typing import Final

import pytest

from tests.fuzz.campaign import Campaign, Wrong, replies, shrink
from tests.fuzz.mutate import Mutator, Stream
from tests.fuzz.sides import SETTINGS, Side, Sides

REQUESTS: Final = 4_000

FOUND: Final = {
    "carried out though refused": Stream(
        "tight",
        (
            b"POST /v1/append/a/0 HTTP/1.1\r\nHost:\r\nContent-Length:9\r\n\r\n and more",
            b"DELETE /v1/kv/a/k HTTP/1.1\r\nHost:\r\nTransfer-Encoding:chunked \r\n"
            b'If-Match:"7"\r\n\r\n',
        ),
    ),
    "a head that is none, and does not end": Stream(
        "plain",
        (
            b"GET /v1/kv/a/k HTTP/1.1\r\nHost: t\r\n\r\n",
            b"PUT /v1/kv/a/k HTTP/1.1\r\nHost: t\r\nContent-Length:T",
        ),
        recut=(44,),
    ),
    "a head that is a little too large": Stream(
        "plain", (b"GET /v1/kv/a/k HTTP/1.1\r\nHost: t\r\nA" + b"x" * 65_540,), cuts=(40,)
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_once_went_wrong(name: str) -> None:
    """It is answered alike with the fast path and without."""
    with Campaign(0) as campaign:
        campaign.send(FOUND[name])


def test_mutated_requests_are_answered_alike() -> None:
    """Some thousand of them, other ones each time: the seed is told, and what goes wrong made smaller."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    latest: list[Stream] = []
    with Campaign(seed, lambda stream: latest.append(stream)) as campaign:
        try:
            campaign.run(REQUESTS)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}\n{shrink(latest[-1])}")
        app, fast = campaign.shares()
    assert fast < 0.8 * app, "the fast path has answered next to nothing"
    assert {200, 201, 204, 304, 400, 404, 405, 409, 412, 413} <= campaign.statuses.keys()


def test_a_seed_gives_the_same_streams() -> None:
    """What one machine finds another can find again."""
    one, two = Mutator(7), Mutator(7)
    streams = [one.stream() for _ in range(200)]
    assert streams == [two.stream() for _ in range(200)]
    assert all(Stream.from_text(stream.text()) == stream for stream in streams)


def test_a_difference_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers one key otherwise is caught, and little more than that request is left."""
    connect = Side.connect

    def connect_wrongly(side: Side, room: float) -> object:
        pipe = connect(side, room)
        if side.is_fast:
            write = pipe.write
            monkeypatch.setattr(pipe, "write", lambda data: write(data.replace(b"201 C", b"201 c")))
            monkeypatch.setattr(pipe.protocol, "send", pipe.write, raising=False)
        return pipe

    monkeypatch.setattr(Side, "connect", connect_wrongly)
    latest: list[Stream] = []
    with Campaign(1, lambda stream: latest.append(stream)) as campaign, pytest.raises(Wrong):
        campaign.run(REQUESTS)
    finding = shrink(latest[-1])
    assert finding.is_alone
    assert "201 c" in finding.wrong
    assert len(b"".join(finding.stream.pieces)) < 150


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_fast_path_is_what_answers(settings: str) -> None:
    """Requests that are plain never come to the app of the server that has a fast path."""
    with Sides() as sides:
        reference, fast, _ = sides.of(settings)
        for side in (reference, fast):
            side.begin(70_000.0)
            pipe = side.connect(1e9)
            token = b"Authorization: Bearer open-sesame\r\n" * (settings == "token")
            head = b" /v1/kv/a/k HTTP/1.1\r\nHost: test\r\n" + token
            pipe.receive(b"PUT" + head + b"Content-Length: 1\r\n\r\nv" + b"GET" + head + b"\r\n")
            assert [reply[:12] for reply, _ in replies(bytes(pipe.sent))] == [
                b"HTTP/1.1 201",
                b"HTTP/1.1 200",
            ]
            pipe.end()
    assert (reference.through_app, fast.through_app) == (2, 0)
