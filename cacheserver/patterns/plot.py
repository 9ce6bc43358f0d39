"""Draws what was measured: six panels, each with a question as its title. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from cacheserver.patterns import counters, locks, maps, updates, waiting
from cacheserver.patterns.measure import Row
from cacheserver.patterns.sections import of_section
from cacheserver.patterns.tables import threads_in_words

_COLOURS: Final = ("#c1121f", "#1d3557", "#2a9d8f", "#f77f00", "#7b2cbf", "#6c757d", "#6a994e")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Final = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "svg.hashsalt": "cacheserver",
}


def draw(rows: Sequence[Row], machine: str, path: Path) -> None:
    """Draw the sections that were measured into a PNG or SVG file."""
    panels = [(panel, found) for name, panel in PANELS.items() if (found := of_section(rows, name))]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2 * columns, 4.2 * lines + 0.7), dpi=110, layout="constrained")
        places = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        for axes, (panel, found) in zip(places, panels, strict=False):
            panel(axes, found)
        figure.suptitle(textwrap.fill(f"Locking patterns on {machine}", 58 * columns), fontsize=11)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _dots(axes: Any, rows: Sequence[Row], title: str) -> None:
    """A line a subject, a dot a number of threads: the median, and a stroke from it to the best."""
    names = list(dict.fromkeys(row.case.subject for row in rows))
    counts = sorted({row.case.threads for row in rows})
    for number, count in enumerate(counts):
        found = [row for row in rows if row.case.threads == count]
        lift = (number - (len(counts) - 1) / 2) * 0.6 / len(counts)
        places = [names.index(row.case.subject) + lift for row in found]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        medians = [row.median for row in found]
        axes.hlines(places, [row.best for row in found], medians, color=colour, linewidth=1)
        axes.plot(
            medians, places, marker, color=colour, markersize=5, label=threads_in_words(count)
        )
        for median, place in zip(medians, places, strict=True):
            axes.annotate(
                f"{median:,.0f}",
                (median, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 22) for name in names])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(
        min(row.best for row in rows) / 1.5,
        max(row.median for row in rows) * 3,
    )
    axes.set_xlabel("ns an operation takes a thread: median, and line to the best sample")
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=8, loc="best")


def _lines(
    axes: Any,
    rows: Sequence[Row],
    name: Callable[[Row], str],
    x: Callable[[Row], float],
    y: Callable[[Row], float],
) -> None:
    for number, each in enumerate(dict.fromkeys(map(name, rows))):
        found = sorted((row for row in rows if name(row) == each), key=x)
        axes.plot(
            list(map(x, found)),
            list(map(y, found)),
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            label=each,
        )
    axes.legend(frameon=False, fontsize=8)


def _costs(axes: Any, rows: Sequence[Row]) -> None:
    _dots(axes, rows, "What does a lock cost?")


def _counters(axes: Any, rows: Sequence[Row]) -> None:
    adding = [row for row in rows if row.case.setting == counters.ADD]
    _dots(axes, adding, "What does an addition cost?")


def _shares(axes: Any, rows: Sequence[Row]) -> None:
    most = max(row.case.threads for row in rows)
    shown = [row for row in rows if row.case.threads == most]
    _lines(
        axes,
        shown,
        lambda row: row.case.subject,
        lambda row: float(row.case.setting) * 100,
        lambda row: row.median,
    )
    shares = [share * 100 for share in maps.WRITE_SHARES]
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.01)
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")
    axes.set_xlabel("per cent of the operations that write")
    axes.set_ylabel("ns an operation")
    axes.set_title(f"A read-write lock, or what else? {threads_in_words(most)}")


def _stripes(axes: Any, rows: Sequence[Row]) -> None:
    _lines(
        axes,
        rows,
        lambda row: threads_in_words(row.case.threads),
        lambda row: int(row.case.setting),
        lambda row: row.median,
    )
    _axis_of_stripes(axes, maps.STRIPE_COUNTS)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ns a put")
    axes.set_title("Where do stripes pay?")


def _updates(axes: Any, rows: Sequence[Row]) -> None:
    most = max(row.case.threads for row in rows)
    for number, work in enumerate(updates.WORK):
        found = [
            (optimistic.figure("missed") * 100, optimistic.median / locked.median)
            for optimistic, locked in updates.pairs(rows)
            if optimistic.case.threads == most and optimistic.case.setting.split()[1] == str(work)
        ]
        axes.plot(
            *zip(*sorted(found), strict=True),
            color=_COLOURS[number],
            marker=_MARKERS[number],
            markersize=5,
            label=f"{work} us to compute",
        )
    axes.axhline(1, color="#111111", linewidth=0.8, linestyle=":")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.01)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_xlabel("per cent of the computations that were in vain")
    axes.set_ylabel("time an update, optimistic / locked")
    axes.set_title(f"Where does optimistic lose (above 1)? {threads_in_words(most)}")
    axes.legend(frameon=False, fontsize=8)


def _waiting(axes: Any, rows: Sequence[Row]) -> None:
    most = max(row.case.threads for row in rows)
    _lines(
        axes,
        [row for row in rows if row.case.threads == most],
        lambda row: f"{row.case.subject} us held, {waiting.OUTSIDE} us not",
        lambda row: int(row.case.setting),
        lambda row: row.figure("wait_share") * 100,
    )
    axes.axhline(waiting.LIMIT * 100, color="#111111", linewidth=0.8, linestyle=":")
    _axis_of_stripes(axes, waiting.STRIPES)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("per cent of the time spent waiting")
    axes.set_title(f"Where are 10 per cent crossed? {threads_in_words(most)}")


def _axis_of_stripes(axes: Any, stripes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(stripes, [str(each) for each in stripes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("stripes")


PANELS: Final[dict[str, Callable[[Any, Sequence[Row]], None]]] = {
    locks.COSTS: _costs,
    counters.NAME: _counters,
    maps.SHARES: _shares,
    maps.STRIPES: _stripes,
    updates.NAME: _updates,
    waiting.NAME: _waiting,
}
