"""Draws what was measured, a panel for each case: bars of CPU a request, then percentiles.

Panels of one kind have the same subjects in the same places, so that they are read across. Bars start at 0
and have a scale of their own in each panel; the number at a bar is its median, the line through its
end goes from the lowest to the highest round.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.inprocess import describe
from benchmarks.measure import PERCENTILES
from benchmarks.peers import OURS
from benchmarks.report import TITLES, description, rate_in_words, rounds_in_words

_COLUMNS: Final = 4
_PANEL: Final = (4.0, 2.7)
"""Inches."""
_MARGIN: Final = 2.0
"""Inches on the left, for the subjects' names."""
_HEAD: Final = 1.0
"""Inches on top, for the title."""
_OURS: Final = "#0b6e4f"
_THEIRS: Final = "#9aa5b1"
_SHADES: Final = ("#1f2933", "#d97706", "#b91c1c")
_MARKERS: Final = ("o", "D", "^")
_STYLE: Final = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#e4e7eb",
    "svg.hashsalt": "cacheserver",
}

type Panel = tuple[str, dict[str, Any]]
"""Title, and the figures of each subject."""


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the benchmark's result into http.png and http.svg; return their paths."""
    costs, latencies = _panels(result)
    if not costs and not latencies:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        figure = _figure(result, costs, latencies)
        paths = [folder / "http.png", folder / "http.svg"]
        for path in paths:
            figure.savefig(path, dpi=110)
    return paths


def _panels(result: Mapping[str, Any]) -> tuple[list[Panel], list[Panel]]:
    """Return the panels of CPU a request and those of percentiles; none where there are no figures."""
    cases = result["cases"].values()
    costs = [(description(c), _with_stand_ins(c)) for c in cases if not c["is_latency"]]
    latencies = [
        (f"{description(c).rpartition(',')[0]}: us at {rate_in_words(rate)}", found["results"])
        for c in cases
        if c["is_latency"]
        for rate, found in c["at"].items()
    ]
    return [panel for panel in costs if panel[1]], [panel for panel in latencies if panel[1]]


def _with_stand_ins(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a case, of which some may be those of another operation."""
    stand_ins = case["stand_ins"]
    return {name: {**found, "of": stand_ins.get(name)} for name, found in case["results"].items()}


def _figure(result: Mapping[str, Any], costs: list[Panel], latencies: list[Panel]) -> Figure:
    columns = min(_COLUMNS, max(len(costs), len(latencies)))
    rows_of_costs = math.ceil(len(costs) / columns)
    rows = rows_of_costs + math.ceil(len(latencies) / columns)
    size = (_MARGIN + columns * _PANEL[0], _HEAD + rows * _PANEL[1])
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    figure.suptitle(
        textwrap.fill("Server CPU microseconds a request (shorter is better)", columns * 44)
        + (", then latency percentiles" if latencies else "")
        + "\n"
        + textwrap.fill(
            f"{describe(result['machine'])}; {rounds_in_words(result['plan'])}",
            columns * 44,
        ),
        fontsize=11,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    cost_axes = grid[:rows_of_costs].ravel()
    latency_axes = grid[rows_of_costs:].ravel()
    for axes in grid.ravel():
        axes.set_visible(False)
    for drawing, places, panels in (
        (_bars, cost_axes, costs),
        (_percentiles, latency_axes, latencies),
    ):
        names = [name for name in TITLES if any(name in figures for _, figures in panels)]
        for number, (axes, (title, figures)) in enumerate(zip(places, panels, strict=False)):
            axes.set_visible(True)
            axes.set_title(textwrap.fill(title, 46), loc="left")
            drawing(axes, figures, names)
            _name_subjects(axes, names, labels=number % columns == 0)
    return figure


def _name_subjects(axes: Any, names: list[str], *, labels: bool) -> None:
    axes.set_yticks(range(len(names)), [TITLES[name] if labels else "" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name in OURS else "normal")


def _bars(axes: Any, figures: Mapping[str, Any], names: list[str]) -> None:
    longest = max((figure["cpu_us"]["max"] for figure in figures.values()), default=1.0)
    for place, name in enumerate(names):
        if name not in figures:
            continue
        spread = figures[name]["cpu_us"]
        colour = _OURS if name in OURS else _THEIRS
        axes.barh(place, spread["median"], height=0.7, color=colour)
        axes.hlines(place, spread["min"], spread["max"], color=_SHADES[0], linewidth=1.5)
        axes.text(
            spread["max"] + longest * 0.02,
            place,
            _number(spread["median"]) + (f" (a {of})" if (of := figures[name]["of"]) else ""),
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, longest * 1.15)


def _percentiles(axes: Any, figures: Mapping[str, Any], names: list[str]) -> None:
    axes.set_xscale("log")
    for place, name in enumerate(names):
        if name not in figures:
            continue
        medians = [figures[name][percentile]["median"] for percentile in PERCENTILES]
        axes.hlines(place, medians[0], medians[-1], color=_THEIRS, linewidth=1)
        for percentile, colour, marker in zip(PERCENTILES, _SHADES, _MARKERS, strict=True):
            spread = figures[name][percentile]
            axes.hlines(place, spread["min"], spread["max"], color=colour, linewidth=1.5)
            axes.plot(spread["median"], place, marker, color=colour, markersize=5)
        axes.text(
            1,
            place - 0.32,
            " / ".join(map(_number, medians)),
            transform=axes.get_yaxis_transform(),
            ha="right",
            fontsize=7,
        )
    for percentile, colour, marker in zip(PERCENTILES, _SHADES, _MARKERS, strict=True):
        axes.plot([], [], marker, color=colour, label=percentile)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=7, ncols=3, frameon=False)


def _number(value: float) -> str:
    """Three digits at least, thousands apart: `7.82`, `82.7`, `12,069`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
