"""What reading a reference that threads share costs, and replacing what it refers to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cacheserver.patterns.measure import Case, Loop, Row, repeat
from cacheserver.patterns.tables import cells, matrix, threads_in_words
from cacheserver.store.atomics import IMPLEMENTATION, ExchangedReference, LockedReference

NAME: Final = "references"
GET: Final = "get"
UPDATE: Final = "update"

REFERENCES: Final[dict[str, Callable[[Any], Any]]] = {
    "LockedReference": LockedReference,
    **({} if IMPLEMENTATION == "lock" else {"AtomicReference": ExchangedReference}),
}


def _one_more(old: tuple[int]) -> tuple[int]:
    return (old[0] + 1,)


@dataclass(slots=True)
class _ReferenceTrial:
    reference: Any
    updates: bool

    def prepare(self, _worker: int) -> Loop:
        reference = self.reference
        return repeat((lambda: reference.update(_one_more)) if self.updates else reference.get)

    def figures(self, operations: int, _seconds: float) -> dict[str, float]:
        expected, found = operations if self.updates else 0, self.reference.get()[0]
        if found != expected:
            raise RuntimeError(f"{expected} updates came to {found}")
        return {}


def _trial(new: Callable[[Any], Any], setting: str) -> _ReferenceTrial:
    return _ReferenceTrial(new((0,)), setting == UPDATE)


def cases(threads: Sequence[int]) -> list[Case]:
    """Return the cases: reading, and replacing a tuple by one that is made from it."""
    return [
        Case(NAME, name, setting, count, partial(_trial, new, setting))
        for setting in (GET, UPDATE)
        for name, new in REFERENCES.items()
        for count in threads
    ]


def report(rows: Sequence[Row]) -> str:
    """Say what both cost."""
    return matrix(
        "ns",
        rows,
        lambda row: row.case.subject,
        cells,
        lambda row: f"{row.case.setting}, {threads_in_words(row.case.threads)}",
    )
