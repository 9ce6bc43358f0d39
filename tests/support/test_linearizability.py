"""The checker itself, on histories known to be good and known to be bad."""

from __future__ import annotations

import random

import pytest

from cacheserver.store.entry import NEVER
from cacheserver.store.outcomes import Conflict, Deleted, Missing, Refused, Written
from tests.support.linearizability import (
    CLEAR,
    DELETE,
    DELETED,
    READ,
    SNAPSHOT,
    TICK,
    TRANSACTION,
    WRITE,
    NotLinearizable,
    Operation,
    Seen,
    check_linearizable,
    is_linearizable,
)


def read(invoked: int, returned: int | None, seen: Seen, key: str = "k") -> Operation:
    return Operation(READ, key, invoked, returned, seen)


def write(
    invoked: int,
    returned: int | None,
    value: str,
    result: object = None,
    *,
    expected: int | None = None,
    ttl: float = 0,
    key: str = "k",
) -> Operation:
    return Operation(WRITE, key, invoked, returned, result, value, expected, ttl)


def delete(
    invoked: int, returned: int | None, result: object = None, expected: int | None = None
) -> Operation:
    return Operation(DELETE, "k", invoked, returned, result, None, expected)


def clear(invoked: int, returned: int, count: int | None = None) -> Operation:
    return Operation(CLEAR, None, invoked, returned, count)


def snapshot(invoked: int, returned: int, seen: dict[str, tuple[str, int]]) -> Operation:
    return Operation(SNAPSHOT, None, invoked, returned, seen)


def tick(invoked: int, returned: int, now: float) -> Operation:
    return Operation(TICK, None, invoked, returned, None, now)


def conflict(seen: Seen) -> Conflict[str]:
    return Conflict(None if seen is None else (seen[0], seen[1], NEVER, "", 0))


def transaction(
    invoked: int,
    returned: int | None,
    writes: dict[str, str | None],
    result: object = None,
    **conditions: int,
) -> Operation:
    return Operation(TRANSACTION, None, invoked, returned, result, writes, conditions=conditions)


def refused(**conflicts: Seen) -> Refused[str, str]:
    return Refused({key: conflict(seen).current for key, seen in conflicts.items()})


BOTH = {"k": Written(5, True), "l": Written(7, True)}
"""Two keys that a transaction has made."""

GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "a read of what was never written": [read(1, 2, None)],
    "one after another": [
        write(1, 2, "a", Written(5, True)),
        read(3, 4, ("a", 5)),
        write(5, 6, "b", Written(6, False)),
        read(7, 8, ("b", 6)),
        delete(9, 10, Deleted(7)),
        read(11, 12, None),
        delete(13, 14, Missing()),
        write(15, 16, "c", Written(8, True)),
    ],
    "a read beside a write sees the old": [
        write(1, 2, "a", Written(5, True)),
        write(3, 10, "b", Written(6, False)),
        read(4, 5, ("a", 5)),
        read(11, 12, ("b", 6)),
    ],
    "a read beside a write sees the new, and so does every later one": [
        write(1, 2, "a", Written(5, True)),
        write(3, 10, "b", Written(6, False)),
        read(4, 5, ("b", 6)),
        read(6, 7, ("b", 6)),
    ],
    "two writes at once, in the order that their versions tell": [
        write(1, 10, "a", Written(6, False)),
        write(1, 10, "b", Written(5, True)),
        read(11, 12, ("a", 6)),
    ],
    "a slow read that began before two writes": [
        write(1, 2, "a", Written(5, True)),
        read(3, 20, ("a", 5)),
        write(4, 5, "b", Written(6, False)),
        write(6, 7, "c", Written(7, False)),
    ],
    "compare-and-set: one of two wins, the other sees the winner": [
        write(1, 2, "a", Written(5, True)),
        write(3, 9, "b", Written(6, False), expected=5),
        write(4, 8, "c", conflict(("b", 6)), expected=5),
    ],
    "a conflict beside a deletion": [
        write(1, 2, "a", Written(5, True)),
        delete(3, 9, Deleted(6), expected=5),
        write(4, 8, "c", conflict(None), expected=5),
        delete(10, 11, conflict(None), expected=5),
    ],
    "creating where nothing is": [
        write(1, 4, "a", Written(5, True), expected=0),
        write(2, 3, "b", conflict(("a", 5)), expected=0),
    ],
    "instants that touch count as one after the other or at once": [
        write(1, 2, "a", Written(5, True)),
        read(2, 3, None),
    ],
    "a transaction beside readers that see all of it or nothing": [
        transaction(1, 10, {"k": "a", "l": "b"}, BOTH),
        read(2, 3, None, "l"),
        read(4, 5, ("a", 5), "k"),
        read(6, 7, ("b", 7), "l"),
    ],
    "a slow reader that saw nothing, after one that saw all": [
        transaction(1, 10, {"k": "a", "l": "b"}, BOTH),
        read(2, 9, None, "l"),
        read(4, 5, ("a", 5), "k"),
    ],
    "two that swap, one after the other": [
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(
            3, 8, {"k": "b", "l": "a"}, {"k": Written(6, False), "l": Written(8, False)}, k=5, l=7
        ),
        transaction(4, 7, {"k": "never", "l": DELETED}, refused(k=("b", 6), l=("a", 8)), k=5, l=7),
        read(9, 10, ("b", 6), "k"),
        read(11, 12, ("a", 8), "l"),
    ],
    "deletions, of what is there and what is not": [
        transaction(1, 2, {"k": "a", "l": DELETED}, {"k": Written(5, True), "l": Missing()}, l=0),
        transaction(3, 4, {"k": DELETED}, {"k": Deleted(6)}, l=0),
        read(5, 6, None, "k"),
    ],
    "one that is refused for one of its keys": [
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(3, 4, {"l": "c"}, refused(k=("a", 5)), k=4, l=7),
        read(5, 6, ("b", 7), "l"),
    ],
    "a pending transaction that happened": [
        transaction(1, None, {"k": "a", "l": "b"}),
        read(2, 3, None, "k"),
        read(4, 5, ("a", 5), "k"),
        read(6, 7, ("b", 7), "l"),
    ],
    "a pending write that nobody saw": [write(1, None, "a"), read(2, 3, None)],
    "a pending write that somebody saw": [
        write(1, None, "a"),
        read(2, 3, None),
        read(4, 5, ("a", 7)),
        write(6, 7, "b", Written(8, False), expected=7),
    ],
    "a pending write whose version a conflict tells": [
        write(1, None, "a"),
        write(2, 3, "b", conflict(("a", 3)), expected=0),
        read(4, 5, ("a", 3)),
    ],
    "a pending deletion": [
        write(1, 2, "a", Written(5, True)),
        delete(3, None),
        read(4, 5, ("a", 5)),
        read(6, 7, None),
    ],
    "a pending compare-and-set on a pending write": [
        write(1, None, "a"),
        write(2, None, "b", expected=4),
        read(3, 4, ("b", 9)),
    ],
    "a clear beside reads": [
        write(1, 2, "a", Written(5, True)),
        write(1, 2, "x", Written(5, True), key="other"),
        clear(3, 10, 2),
        read(4, 5, ("a", 5)),
        read(6, 7, None),
        read(8, 9, None, key="other"),
    ],
    "a snapshot of one instant": [
        write(1, 2, "a", Written(5, True)),
        write(3, 10, "x", Written(5, True), key="other"),
        snapshot(4, 9, {"k": ("a", 5), "other": ("x", 5)}),
    ],
    "gone when its time is up": [
        write(1, 2, "a", Written(5, True), ttl=10),
        tick(3, 6, 10.0),
        read(4, 5, ("a", 5)),
        read(7, 8, None),
        write(9, 10, "b", Written(7, True)),
    ],
    "a deadline counts from some instant of the call": [
        write(1, 4, "a", Written(5, True), ttl=10),
        tick(2, 3, 5.0),
        read(4, 5, ("a", 5)),
        tick(6, 7, 10.0),
        read(8, 9, None),
    ],
    "a deadline may count from the later instant too": [
        write(1, 4, "a", Written(5, True), ttl=10),
        tick(2, 3, 5.0),
        tick(6, 7, 10.0),
        read(8, 9, ("a", 5)),
        tick(10, 11, 15.0),
        read(12, 13, None),
    ],
}

BAD: dict[str, list[Operation]] = {
    "half of a transaction: the one key new, then the other old": [
        transaction(1, 10, {"k": "a", "l": "b"}, BOTH),
        read(4, 5, ("a", 5), "k"),
        read(6, 7, None, "l"),
    ],
    "half of a transaction, seen by a snapshot": [
        transaction(1, 10, {"k": "a", "l": "b"}, BOTH),
        snapshot(4, 5, {"l": ("b", 7)}),
    ],
    "half of a pending transaction": [
        transaction(1, None, {"k": "a", "l": "b"}),
        read(4, 5, ("a", 5), "k"),
        read(6, 7, None, "l"),
    ],
    "half of a deletion of two": [
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(3, 10, {"k": DELETED, "l": DELETED}, {"k": Deleted(6), "l": Deleted(8)}),
        read(4, 5, None, "k"),
        read(6, 7, ("b", 7), "l"),
    ],
    "two transactions that each write what the other has only read": [  # write skew
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(3, 10, {"k": "c"}, {"k": Written(6, False)}, l=7),
        transaction(3, 10, {"l": "d"}, {"l": Written(8, False)}, k=5),
    ],
    "a transaction whose condition did not hold": [
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(3, 4, {"k": "c"}, {"k": Written(6, False)}, l=6),
    ],
    "a transaction that was refused though all held": [
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(3, 4, {"k": "c"}, refused(k=("a", 5)), k=5),
    ],
    "a transaction that was refused and wrote all the same": [
        transaction(1, 2, {"k": "a", "l": "b"}, BOTH),
        transaction(3, 4, {"k": "c"}, refused(l=("b", 7)), l=6),
        read(5, 6, ("c", 6), "k"),
    ],
    "a transaction that gave an old version": [
        write(1, 2, "a", Written(5, True)),
        transaction(3, 4, {"k": "b"}, {"k": Written(5, False)}),
    ],
    "stale read": [
        write(1, 2, "a", Written(5, True)),
        write(3, 4, "b", Written(6, False)),
        read(5, 6, ("a", 5)),
    ],
    "a read of what was never written": [read(1, 2, ("a", 5))],
    "a miss after a write": [write(1, 2, "a", Written(5, True)), read(3, 4, None)],
    "read from the future": [read(1, 2, ("a", 5)), write(3, 4, "a", Written(5, True))],
    "new, then old again": [
        write(1, 2, "a", Written(5, True)),
        write(3, 10, "b", Written(6, False)),
        read(4, 5, ("b", 6)),
        read(6, 7, ("a", 5)),
    ],
    "lost update": [
        write(1, 2, "a", Written(5, True)),
        write(3, 4, "b", Written(6, False), expected=5),
        write(5, 6, "c", Written(7, False), expected=5),
    ],
    "two compare-and-sets from one version succeed, at once": [
        write(1, 2, "a", Written(5, True)),
        write(3, 9, "b", Written(6, False), expected=5),
        write(4, 8, "c", Written(7, False), expected=5),
    ],
    "two creators succeed": [
        write(1, 9, "b", Written(6, True), expected=0),
        write(2, 8, "c", Written(7, True), expected=0),
    ],
    "a version comes back after a deletion": [
        write(1, 2, "a", Written(5, True)),
        delete(3, 4, Deleted(6)),
        write(5, 6, "b", Written(5, True)),
    ],
    "a version comes back after a clear": [
        write(1, 2, "a", Written(5, True)),
        clear(3, 4),
        write(5, 6, "b", Written(5, True)),
    ],
    "ABA: an old version matches again": [
        write(1, 2, "a", Written(5, True)),
        delete(3, 4, Deleted(6)),
        write(5, 6, "a", Written(7, True)),
        write(7, 8, "c", Written(8, False), expected=5),
    ],
    "a deletion with the version that was deleted": [
        write(1, 2, "a", Written(5, True)),
        delete(3, 4, Deleted(5)),
    ],
    "a conflict that isn't one": [
        write(1, 2, "a", Written(5, True)),
        write(3, 4, "b", conflict(("a", 5)), expected=5),
    ],
    "a conflict without a condition": [
        write(1, 2, "a", Written(5, True)),
        write(3, 4, "b", conflict(("a", 5))),
    ],
    "a conflict that shows what is gone": [
        write(1, 2, "a", Written(5, True)),
        write(3, 4, "b", Written(6, False)),
        write(5, 6, "c", conflict(("a", 5)), expected=9),
    ],
    "created what was there": [
        write(1, 2, "a", Written(5, True)),
        write(3, 4, "b", Written(6, True)),
    ],
    "replaced what was not there": [write(1, 2, "a", Written(5, False))],
    "deleted what was not there": [delete(1, 2, Deleted(5))],
    "missing though it was there": [
        write(1, 2, "a", Written(5, True)),
        delete(3, 4, Missing()),
    ],
    "one deletion done twice": [
        write(1, 2, "a", Written(5, True)),
        delete(3, 9, Deleted(6)),
        delete(4, 8, Deleted(7)),
    ],
    "the right value with a wrong version": [
        write(1, 2, "a", Written(5, True)),
        read(3, 4, ("a", 4)),
    ],
    "a pending write seen before its call": [read(1, 2, ("a", 7)), write(3, None, "a")],
    "a pending write undone": [
        write(1, None, "a"),
        read(2, 3, ("a", 7)),
        read(4, 5, None),
    ],
    "a pending write seen with two versions": [
        write(1, None, "a"),
        read(2, 3, ("a", 7)),
        read(4, 5, ("a", 8)),
    ],
    "a pending write with an old version": [
        write(1, 2, "a", Written(5, True)),
        write(3, None, "b"),
        read(4, 5, ("b", 4)),
    ],
    "a clear seen, then not seen": [
        write(1, 2, "a", Written(5, True)),
        clear(3, 10),
        read(4, 5, None),
        read(6, 7, ("a", 5)),
    ],
    "a clear seen on one key, then not on another": [
        write(1, 2, "a", Written(5, True)),
        write(1, 2, "x", Written(5, True), key="other"),
        clear(3, 10),
        read(4, 5, None),
        read(6, 7, ("x", 5), key="other"),
    ],
    "a clear that counts what was not there": [
        write(1, 2, "a", Written(5, True)),
        clear(3, 4, 2),
    ],
    "a snapshot of two instants": [
        write(1, 2, "a", Written(5, True)),
        write(1, 2, "x", Written(5, True), key="other"),
        write(4, 5, "b", Written(6, False)),
        write(6, 7, "y", Written(6, False), key="other"),
        snapshot(3, 9, {"k": ("a", 5), "other": ("y", 6)}),
    ],
    "a snapshot with a key that nobody wrote": [snapshot(1, 2, {"k": ("a", 5)})],
    "there after its time": [
        write(1, 2, "a", Written(5, True), ttl=10),
        tick(3, 4, 10.0),
        read(5, 6, ("a", 5)),
    ],
    "gone before its time": [
        write(1, 2, "a", Written(5, True), ttl=10),
        tick(3, 4, 9.0),
        read(5, 6, None),
    ],
    "expired, then there again": [
        write(1, 2, "a", Written(5, True), ttl=10),
        tick(3, 9, 10.0),
        read(4, 5, None),
        read(6, 7, ("a", 5)),
    ],
    "an expired version matches": [
        write(1, 2, "a", Written(5, True), ttl=10),
        tick(3, 4, 10.0),
        write(5, 6, "b", Written(7, False), expected=5),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_history_is_accepted(name: str) -> None:
    """What some order explains passes."""
    check_linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_history_is_refused(name: str) -> None:
    """What no order explains fails."""
    with pytest.raises(NotLinearizable):
        check_linearizable(BAD[name])


def test_failure_tells_the_operations() -> None:
    """The failure lists every operation and how far the best order came."""
    with pytest.raises(NotLinearizable, match=r"(?s)no order explains these 3.*done.*'a'.*'b'"):
        check_linearizable(BAD["stale read"])


def test_order_in_the_list_means_nothing() -> None:
    """A history is the same however its operations were put together."""
    for name, history in [*GOOD.items(), *BAD.items()]:
        shuffled = history.copy()
        random.Random(1).shuffle(shuffled)
        assert is_linearizable(shuffled) == (name in GOOD and history is GOOD[name]), name


def test_keys_are_searched_apart() -> None:
    """Operations on one key excuse nothing on another."""
    history = [
        write(1, 9, "a", Written(5, True), key="one"),
        write(2, 3, "b", Written(5, True), key="two"),
        read(4, 5, ("a", 5), key="two"),
    ]
    assert not is_linearizable(history)


def test_many_operations_at_once_are_decided() -> None:
    """Eight threads that do nothing but overlap are no trouble, good or bad."""
    writes = [write(1, 1000, f"v{n}", Written(n + 1, n == 0)) for n in range(8)]
    reads = [read(1, 1000, (f"v{n}", n + 1)) for n in range(8)]
    check_linearizable([*writes, *reads])
    backwards = [read(1001, 1002, ("v3", 4)), read(1003, 1004, ("v3", 4))]
    assert not is_linearizable([*writes, *reads, *backwards])


@pytest.mark.parametrize("seed", range(20))
def test_made_up_histories_are_accepted_and_refused_once_spoilt(seed: int) -> None:
    """Widened around true instants a history stays good; a value moved back in time spoils it."""
    chance = random.Random(seed)
    value: Seen = None
    highest = 0
    history: list[Operation] = []
    for instant in range(100, 10_000, 100):
        invoked, returned = instant - chance.randrange(400), instant + chance.randrange(400)
        if chance.random() < 0.5:
            history.append(read(invoked, returned, value))
        else:
            highest += chance.randrange(1, 4)
            written = Written(highest, value is None)
            value = (f"v{highest}", highest)
            history.append(write(invoked, returned, value[0], written))
    check_linearizable(history)
    first = next(o for o in history if o.kind == WRITE)
    late = read(20_000, 20_001, (first.value, first.result.version))
    assert not is_linearizable([*history, late])
