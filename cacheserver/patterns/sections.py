"""The sections of the measurement: a title, the cases, and the table that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cacheserver.patterns import counters, locks, maps, references, updates, waiting
from cacheserver.patterns.measure import Case, Row


@dataclass(frozen=True, slots=True)
class Section:
    """One question, and how it is answered."""

    title: str
    cases: Callable[[Sequence[int]], list[Case]]
    report: Callable[[Sequence[Row]], str]


SECTIONS: Final[dict[str, Section]] = {
    locks.COSTS: Section(
        "What a lock costs",
        lambda threads: [case for case in locks.cases(threads) if case.section == locks.COSTS],
        locks.costs_report,
    ),
    locks.WAITS: Section(
        "An increment under one lock",
        lambda threads: [case for case in locks.cases(threads) if case.section == locks.WAITS],
        locks.waits_report,
    ),
    counters.NAME: Section("Counters", counters.cases, counters.report),
    references.NAME: Section("References", references.cases, references.report),
    maps.SHARES: Section("Reads and writes by share", maps.share_cases, maps.shares_report),
    maps.STRIPES: Section("Writes by stripes", maps.stripe_cases, maps.stripes_report),
    updates.NAME: Section("Optimistic and locked updates", updates.cases, updates.report),
    waiting.NAME: Section("Time spent waiting for locks", waiting.cases, waiting.report),
}


def of_section(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the rows of one section."""
    return [row for row in rows if row.case.section == name]
