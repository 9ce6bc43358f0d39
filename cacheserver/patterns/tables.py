"""Markdown tables of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cacheserver.patterns.measure import Row


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns line up; all but the first are aligned right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(map(line, [head, rule, *rows]))


def matrix(
    corner: str,
    rows: Sequence[Row],
    line: Callable[[Row], str],
    cell: Callable[[Row], str],
    column: Callable[[Row], str] = lambda row: threads_in_words(row.case.threads),
) -> str:
    """Return a table with a line and a column for each value of these, in order of appearance."""
    columns = list(dict.fromkeys(map(column, rows)))
    lines = list(dict.fromkeys(map(line, rows)))
    found = {(line(row), column(row)): cell(row) for row in rows}
    body = [[name, *(found.get((name, each), "") for each in columns)] for name in lines]
    return table([corner, *columns], body)


def cells(row: Row) -> str:
    """Put the time of an operation into a cell: the median sample, and the best one."""
    return f"{row.median:,.0f} ({row.best:,.0f})"


def threads_in_words(count: int) -> str:
    """Return `1 thread`, `2 threads`."""
    return f"{count} thread" + ("s" if count != 1 else "")
