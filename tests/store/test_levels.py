"""References and memory blocks stay level, whatever is done how often: what is compiled loses none.

A reference too many keeps an object for ever; one too few frees what is still in use. Neither shows in
answers, so they are counted: those of the keys, values and content types that go in, and all blocks.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Final

import pytest

from cacheserver.errors import CacheServerError
from cacheserver.store.entry import KEEP
from cacheserver.store.outcomes import Condition
from cacheserver.store.store import Store
from tests.conftest import Maker
from tests.fuzz.sides import SETTINGS, TOKEN, Side, Sides
from tests.support.clock import ManualClock

ROUNDS: Final = 10_000
LARGE: Final = 20_000
"""Bytes of a value that is kept as it is instead of being packed."""
FEW: Final = 10
"""References to a key that come and go: of the sketches of hot keys, which hold a sample."""
SLACK: Final = 500
"""Blocks that others may have taken meanwhile: the interpreter, and the history of figures."""


def levels(objects: list[object]) -> list[int]:
    """Return how many references each object has."""
    gc.collect()
    return [sys.getrefcount(each) for each in objects]


def check_level(objects: list[object], work: Callable[[], object], rounds: int = ROUNDS) -> None:
    """Fail if so many rounds of `work` leave more or fewer references or blocks than there were."""
    for _ in range(rounds // 10):
        work()
    before, blocks = levels(objects), sys.getallocatedblocks()
    for _ in range(rounds):
        work()
    after = levels(objects)
    changed = {
        repr(each)[:30]: (one, two)
        for each, one, two in zip(objects, before, after, strict=True)
        if abs(one - two) > FEW
    }
    assert not changed, "references before and after"
    assert abs(sys.getallocatedblocks() - blocks) < SLACK


def test_what_is_kept_is_seen() -> None:
    """One reference more in each hundred rounds is too many, and so is one block more in each round."""
    thing, rounds = "".join(["a", "b"]), [0]
    kept: list[object] = []

    def work() -> None:
        rounds[0] += 1
        if rounds[0] % 100 == 0:
            kept.append(thing)

    with pytest.raises(AssertionError, match="references before and after"):
        check_level([thing], work)
    if not sys.getallocatedblocks():
        pytest.skip("blocks are not counted where PYTHONMALLOC is malloc")
    with pytest.raises(AssertionError, match=r"[0-9]+ < 500"):
        check_level([thing], lambda: kept.append([]))


@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("content_type", ["text/plain", "image/x-odd; q=1"])
def test_references_are_level_after_reads_and_writes(
    make: Maker, clock: ManualClock, size: int, content_type: str
) -> None:
    """Reading, writing, deleting, touching, expiring and conflicting, with the very same objects."""
    store: Store = make.store()
    there = store.namespace("things")
    view = there.view()
    key, other = "key-" + str(size), "other-" + str(size)
    value, kind = bytes(range(250)) * (size // 250 + 1), "".join([content_type])
    wrong, create = Condition.version(7), Condition.version(0)

    def work() -> None:
        written = view.put(key, value, None, kind, None)
        view.put(key, value, KEEP, kind, None)
        view.put(key, value, 60.0, kind, wrong)
        view.put(key, value, None, kind, create)
        view.read(key)
        view.read(other)
        view.touch(key, 5.0, None)
        view.touch(other, 5.0, None)
        view.delete(key, wrong)
        view.put(other, value, 1.0, kind, create)
        clock.advance(2.0)
        view.read(other)
        view.delete(key, None)
        view.delete(key, None)
        view.delete(other, None)
        del written

    check_level([key, other, value, kind, wrong, create, KEEP], work)


def test_references_are_level_after_refusals(make: Maker) -> None:
    """What is refused, and told by an exception, is let go of as well."""
    store: Store = make.store(max_memory=2_000, policy="none", max_value_size=50_000)
    there = store.namespace("things")
    view = there.view()
    key, value, kind = "k" * 10, b"v" * 900, "text/" + "plain"[:5]
    keys = [f"key {number}" for number in range(10)]

    def work() -> None:
        for each in keys:
            try:
                view.put(each, value, None, kind, None)
            except CacheServerError:
                break
        else:
            raise AssertionError("all of it fits")
        with pytest.raises(CacheServerError):
            view.put(key, value, -1.0, kind, None)
        with pytest.raises(TypeError):
            view.put(key, 5, None, kind, None)  # type: ignore[arg-type]
        for each in keys:
            view.delete(each, None)

    check_level([key, value, kind, *keys], work)


@pytest.mark.parametrize("settings", SETTINGS)
def test_references_are_level_after_requests(settings: str) -> None:
    """Bytes that come in reads of their own, the same each time, on one connection and on many."""
    token = f"Authorization: Bearer {TOKEN}\r\n".encode() * (settings == "token")

    def request(line: str, *headers: str, body: bytes = b"") -> bytes:
        head = "".join(f"{each}\r\n" for each in (*headers, f"Content-Length: {len(body)}"))
        return f"{line} HTTP/1.1\r\nHost: t\r\n{head}".encode() + token + b"\r\n" + body

    whole = [
        request("PUT /v1/kv/a/k", "Content-Type: image/x-odd; q=1", body=b"v" * 900),
        request("PUT /v1/kv/a/k", 'If-Match: "7"', body=b"v"),
        request("GET /v1/kv/a/k", "traceparent: 00-0"),
        request("GET /v1/kv/a/k", "If-None-Match: *"),
        request("HEAD /v1/kv/a/none"),
        request("POST /v1/append/a/k?ttl=5", body=b"more"),
        request("POST /v1/incr/a/n?by=5"),
        request("POST /v1/incr/a/k"),
        request("POST /v1/touch/a/k?ttl=9"),
        request("DELETE /v1/kv/a/k?cas=7"),
        request("DELETE /v1/kv/a/%6B"),
    ]
    pieces = [*whole, b"".join(whole), whole[0][:30], whole[0][30:-3], whole[0][-3:]]
    with Sides() as sides:
        side: Side = sides.of(settings)[1]
        side.begin(70_000.0)
        pipe = side.connect(1e9)

        def work() -> None:
            for piece in pieces:
                pipe.receive(piece)
            other = side.connect(1e9)
            other.receive(pieces[0])
            other.receive(pieces[-3])
            other.close()
            sides.loop.run()
            pipe.sent.clear()

        check_level([*pieces], work, ROUNDS // 10)  # each of 27 requests
        gc.collect()
        work()
        assert gc.collect() == 0, "what is in a cycle stays until the next collection"
        assert side.through_app == 0
        assert not pipe.has_ended
