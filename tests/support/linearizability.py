"""Asks of a recorded history whether some order of its operations explains it.

A history is a list of operations, each with the instants of its call and its return as seen by the
thread that did it. It is linearizable if every operation can be given one instant between the two
such that, done one after another at those instants, all give the results that they gave.

The search is that of Wing and Gong (1993) with the memory of Lowe (2017): depth first through the
operations that may come next, and no pair of (operations done, state) looked at twice. Operations
on single keys are searched a key at a time, since linearizability composes; a `clear`, a `snapshot`,
a `transaction` or a `tick` of the clock concerns several keys, and then all are searched together. So
what is asked of transactions is strict serializability.

The state of a key is a register with a version: every write gives a version higher than any that
the key ever had, also after deletions. An operation that never returned (`returned` is None) may
have happened at any time after its call, or not at all. A deadline is counted from some instant
between call and return.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

from cacheserver.store.entry import VALUE, VERSION, Entry
from cacheserver.store.outcomes import (
    Condition,
    Conflict,
    Deleted,
    Missing,
    Put,
    Refused,
    Written,
)
from cacheserver.store.striped import StripedDict

type Seen = tuple[Any, int] | None
"""What somebody saw of a key: value and version, or that it is not there."""

READ: Final = "read"
WRITE: Final = "write"
DELETE: Final = "delete"
CLEAR: Final = "clear"
SNAPSHOT: Final = "snapshot"
TICK: Final = "tick"
TRANSACTION: Final = "transaction"

DELETED: Final = None
"""What a transaction is said to write under a key that it deletes."""

_UNKNOWN: Final = -1  # the version of a write that nobody has told yet
MAX_CONFIGURATIONS: Final = 2_000_000


class NotLinearizable(AssertionError):
    """No order of the operations explains their results."""


class Undecided(AssertionError):
    """The history has too many operations at once to be searched."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: what was asked, what came back, and when."""

    kind: str
    key: Hashable
    invoked: int
    returned: int | None
    result: Any = None
    value: Any = None
    """What a write wrote; for a tick the new time; for a transaction what it wrote, by key."""
    expected: int | None = None
    """The version that was the condition, 0: not there, None: no condition."""
    ttl: float = 0
    conditions: Mapping[Any, int] = field(default_factory=dict)
    """Of a transaction: expected versions by key."""
    starts: tuple[float, ...] = ()
    """The times from which `ttl` may count; filled in by the checker."""


class _Kept(NamedTuple):
    """The state of one key. Version 0: not there."""

    value: Any = None
    version: int = 0
    deadline: float = 0
    highest: int = 0

    def at(self, now: float) -> _Kept:
        gone = self.deadline and self.deadline <= now
        return _Kept(highest=self.highest) if gone else self

    def seen(self, seen: Seen) -> _Kept | None:
        """This state if `seen` is what one sees of it, with its version known from now on."""
        if seen is None or self.version == 0:
            return self if seen is None and self.version == 0 else None
        value, version = seen
        if value != self.value:
            return None
        return self.with_version(version)

    def with_version(self, version: int) -> _Kept | None:
        if self.version == version:
            return self
        if self.version == _UNKNOWN and version > self.highest:
            return self._replace(version=version, highest=version)
        return None

    def under(self, expected: int | None) -> _Kept | None:
        """This state if the condition holds in it."""
        if expected is None:
            return self
        if expected == 0 or self.version == 0:
            return self if expected == self.version else None
        return self.with_version(expected)


type _State = tuple[float, tuple[_Kept, ...]]


def check_linearizable(history: Iterable[Operation], now: float = 0) -> None:
    """Raise NotLinearizable, with what can't be explained, unless some order explains `history`.

    `now` is the time at the start, for histories with `ttl` and `tick`.
    """
    operations = sorted(_with_starts(list(history), now), key=lambda o: o.invoked)
    keys = list(dict.fromkeys(key for o in operations for key in _keys_of(o)))
    if any(o.kind in {CLEAR, SNAPSHOT, TICK, TRANSACTION} for o in operations):
        _search(operations, keys, now)
    else:
        for key in keys:
            _search([o for o in operations if o.key == key], [key], now)


def _keys_of(operation: Operation) -> list[Hashable]:
    if operation.kind == TRANSACTION:
        return [*operation.value, *operation.conditions]
    return [operation.key] if operation.kind in {READ, WRITE, DELETE} else []


def is_linearizable(history: Iterable[Operation], now: float = 0) -> bool:
    """Tell whether some order explains the history."""
    try:
        check_linearizable(history, now)
    except NotLinearizable:
        return False
    return True


def _search(operations: Sequence[Operation], keys: Sequence[Hashable], now: float) -> None:
    index = {key: number for number, key in enumerate(keys)}
    must = sum(1 << number for number, o in enumerate(operations) if o.returned is not None)
    start: tuple[int, _State] = (0, (now, (_Kept(),) * len(keys)))
    visited = {start}
    stack = [start]
    furthest = start
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return
        if done.bit_count() > furthest[0].bit_count():
            furthest = (done, state)
        for number in _candidates(operations, done):
            for following in _step(state, operations[number], index):
                configuration = (done | 1 << number, following)
                if configuration not in visited:
                    visited.add(configuration)
                    stack.append(configuration)
        if len(visited) > MAX_CONFIGURATIONS:
            raise Undecided(f"{len(operations)} operations, too many at once")
    raise NotLinearizable(_explain(operations, *furthest))


def _candidates(operations: Sequence[Operation], done: int) -> list[int]:
    """The operations that may be next: those called before any other that is left returned."""
    found: list[int] = []
    first_return = float("inf")
    number = (~done & (done + 1)).bit_length() - 1
    while number < len(operations):
        if not done >> number & 1:
            operation = operations[number]
            if operation.invoked > first_return:
                break
            found.append(number)
            if operation.returned is not None:
                first_return = min(first_return, operation.returned)
        number += 1
    return found


def _step(state: _State, operation: Operation, index: dict[Hashable, int]) -> Iterator[_State]:
    """The states that there may be after the operation; none if its result can't have been."""
    now, kept = state
    match operation.kind:
        case "tick":
            yield operation.value, kept
        case "clear":
            if operation.result is None or operation.result == sum(k.version != 0 for k in kept):
                yield now, tuple(_Kept(highest=k.highest) for k in kept)
        case "snapshot":
            result = operation.result
            after = [k.at(now).seen(result.get(key)) for key, k in zip(index, kept, strict=True)]
            if None not in after and result.keys() <= index.keys():
                yield now, tuple(k for k in after if k is not None)
        case "transaction":
            changed = _step_transaction(
                {key: kept[index[key]].at(now) for key in _keys_of(operation)}, operation, now
            )
            if changed is not None:
                yield now, tuple(changed.get(key, kept[at]) for key, at in index.items())
        case _:
            at = index[operation.key]
            for one in _STEPS[operation.kind](kept[at].at(now), operation, now):
                yield now, (*kept[:at], one, *kept[at + 1 :])


def _step_read(kept: _Kept, operation: Operation, _now: float) -> Iterator[_Kept]:
    if operation.returned is not None and (after := kept.seen(operation.result)) is not None:
        yield after


def _step_write(kept: _Kept, operation: Operation, now: float) -> Iterator[_Kept]:
    if operation.returned is not None and isinstance(operation.result, Conflict):
        yield from _step_conflict(kept, operation)
        return
    before = kept.under(operation.expected)
    if before is None:
        return
    version = _UNKNOWN
    highest = before.highest
    if operation.returned is not None:
        version, created = operation.result
        if version <= highest or created != (before.version == 0):
            return
        highest = version
    for start in operation.starts or (now,):
        if start <= now:
            deadline = start + operation.ttl if operation.ttl else 0
            yield _Kept(operation.value, version, deadline, highest)


def _step_delete(kept: _Kept, operation: Operation, _now: float) -> Iterator[_Kept]:
    if operation.returned is not None and isinstance(operation.result, Conflict):
        yield from _step_conflict(kept, operation)
        return
    before = kept.under(operation.expected)
    if before is None:
        return
    if operation.returned is None:
        yield _Kept(highest=before.highest)
    elif isinstance(operation.result, Missing):
        if before.version == 0:
            yield before
    elif before.version != 0 and operation.result.version > before.highest:
        yield _Kept(highest=operation.result.version)


def _step_conflict(kept: _Kept, operation: Operation) -> Iterator[_Kept]:
    current = operation.result.current
    after = kept.seen(current and (current[VALUE], current[VERSION]))
    if after is not None and after.under(operation.expected) is None:
        yield after


def _step_transaction(
    kept: dict[Hashable, _Kept], operation: Operation, now: float
) -> dict[Hashable, _Kept] | None:
    """The states of its keys after a transaction, None if its result can't have been."""
    result = operation.result
    conflicts = result.conflicts if isinstance(result, Refused) else {}
    for key, expected in operation.conditions.items():
        if key in conflicts:
            current = conflicts[key]
            after = kept[key].seen(current and (current[VALUE], current[VERSION]))
            if after is not None and after.under(expected) is not None:
                return None
        else:
            after = kept[key].under(expected)
        if after is None:
            return None
        kept[key] = after
    if isinstance(result, Refused):
        return kept if conflicts else None
    for key, value in operation.value.items():
        outcome = None if result is None else result[key]
        one = replace(operation, key=key, result=outcome, value=value)
        step = _step_delete if value is DELETED else _step_write
        after = next(step(kept[key], one, now), None)
        if after is None:
            return None
        kept[key] = after
    return kept


_STEPS: Final[dict[str, Callable[[_Kept, Operation, float], Iterator[_Kept]]]] = {
    READ: _step_read,
    WRITE: _step_write,
    DELETE: _step_delete,
}


def _with_starts(history: list[Operation], now: float) -> Iterator[Operation]:
    """Tell each write with a ttl which times the clock may have shown while it ran."""
    ticks = sorted((o for o in history if o.kind == TICK), key=lambda o: o.invoked)
    for operation in history:
        if not operation.ttl:
            yield operation
            continue
        starts = [now]
        for tick in ticks:
            if tick.returned is not None and tick.returned < operation.invoked:
                starts.clear()
            if operation.returned is None or tick.invoked <= operation.returned:
                starts.append(tick.value)
        yield replace(operation, starts=tuple(starts))


def _explain(operations: Sequence[Operation], done: int, state: _State) -> str:
    lines = [f"no order explains these {len(operations)} operations; the furthest came to {state}"]
    for number, o in enumerate(operations):
        mark = "done" if done >> number & 1 else "    "
        what = f"value={o.value!r} expected={o.expected} ttl={o.ttl}"
        lines.append(f"{mark} {o.invoked}..{o.returned} {o.kind} {o.key!r} {what} -> {o.result}")
    return "\n".join(lines)


class Recorder:
    """Does operations for one thread and writes down what it did."""

    def __init__(self, entries: StripedDict[Any, Any]) -> None:
        self._entries = entries
        self.operations: list[Operation] = []

    def read(self, key: Hashable) -> Entry[Any] | None:
        invoked = perf_counter_ns()
        entry = self._entries.read(key)
        returned = perf_counter_ns()
        seen = None if entry is None else (entry[VALUE], entry[VERSION])
        self.operations.append(Operation(READ, key, invoked, returned, seen))
        return entry

    def write(
        self, key: Hashable, value: Any, expected: int | None = None, ttl: float = 0
    ) -> Written | Conflict[Any]:
        condition = None if expected is None else Condition.version(expected)
        invoked = perf_counter_ns()
        result = self._entries.put(key, value, condition=condition, ttl=ttl)
        returned = perf_counter_ns()
        self.operations.append(
            Operation(WRITE, key, invoked, returned, result, value, expected, ttl)
        )
        return result

    def delete(
        self, key: Hashable, expected: int | None = None
    ) -> Deleted | Missing | Conflict[Any]:
        condition = None if expected is None else Condition.version(expected)
        invoked = perf_counter_ns()
        result = self._entries.delete(key, condition=condition)
        returned = perf_counter_ns()
        self.operations.append(Operation(DELETE, key, invoked, returned, result, None, expected))
        return result

    def transaction(
        self, writes: Mapping[Any, Any], conditions: Mapping[Any, int] | None = None
    ) -> dict[Any, Written | Deleted | Missing] | Refused[Any, Any]:
        """Write values, and delete what is DELETED, if all keys have their expected versions."""
        expected = conditions or {}
        wishes = {k: None if v is DELETED else Put(v) for k, v in writes.items()}
        under = {key: Condition.version(version) for key, version in expected.items()}
        invoked = perf_counter_ns()
        result = self._entries.transaction(wishes, under)
        returned = perf_counter_ns()
        self.operations.append(
            Operation(
                TRANSACTION, None, invoked, returned, result, dict(writes), conditions=expected
            )
        )
        return result

    def clear(self, *, counted: bool = True) -> None:
        """Clear; `counted` unless there are deadlines, since expired entries may count or not."""
        invoked = perf_counter_ns()
        result = self._entries.clear()
        returned = perf_counter_ns()
        self.operations.append(
            Operation(CLEAR, None, invoked, returned, result if counted else None)
        )

    def snapshot(self) -> None:
        invoked = perf_counter_ns()
        result = self._entries.snapshot()
        returned = perf_counter_ns()
        seen = {key: (entry[VALUE], entry[VERSION]) for key, entry in result.items()}
        self.operations.append(Operation(SNAPSHOT, None, invoked, returned, seen))

    def tick(self, set_clock: Callable[[float], None], now: float) -> None:
        invoked = perf_counter_ns()
        set_clock(now)
        returned = perf_counter_ns()
        self.operations.append(Operation(TICK, None, invoked, returned, None, now))
