"""The scaling curves of the store benchmark: a panel a workload, a line a subject.

Both axes are logarithmic: what scales perfectly rises as the dotted lines do, whatever its height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.inprocess import describe
from benchmarks.inprocess_subjects import STORE, STRIPED

OURS: Final = {STRIPED.name: "#c1121f", STORE.name: "#f77f00"}
OTHERS: Final = (
    "#111111",
    "#6c757d",
    "#1d3557",
    "#457b9d",
    "#2a9d8f",
    "#6a994e",
    "#7b2cbf",
    "#b56576",
)
COLUMNS: Final = 4


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write store.png and store.svg; return where."""
    mpl.rcParams["svg.hashsalt"] = "cacheserver"  # the same figures give the same file
    workloads = list(dict.fromkeys(row["workload"] for row in result["rows"]))[1:]
    rows = -(-len(workloads) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 4.3 * rows + 1.0), dpi=110, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True)
    for number, panel in enumerate(panels.flat):
        if number < len(workloads):
            _panel(panel, result, workloads[number], number % COLUMNS == 0)
        else:
            panel.set_visible(False)
    figure.suptitle(
        "The store in process: throughput by threads (dotted: perfect scaling)\n"
        f"{describe(result['machine'])}; medians of {result['settings']['rounds']} rounds",
        fontsize=11,
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "store.png", folder / "store.svg"]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _panel(panel: Any, result: dict[str, Any], workload: str, left: bool) -> None:
    counts = result["settings"]["threads"]
    ends = []
    for subject in result["subjects"]:
        rates = [_median(result, workload, subject, count) / 1e6 for count in counts]
        ours = subject in OURS
        panel.plot(
            counts,
            rates,
            color=_colour(result, subject),
            linewidth=2.6 if ours else 1.3,
            marker="o",
            markersize=5 if ours else 3.5,
            zorder=3 if ours else 2,
        )
        ends.append((rates[-1], subject))
    _axes(panel, result, workload, left)
    _labels(panel, result, ends)


def _axes(panel: Any, result: dict[str, Any], workload: str, left: bool) -> None:
    counts = result["settings"]["threads"]
    medians = [
        row["operations_per_second"]["median"] / 1e6
        for row in result["rows"]
        if row["subject"] in result["subjects"]
    ]
    low, high = min(medians) / 1.5, max(medians) * 1.5
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_ylim(low, high)
    panel.set_xlim(counts[0] / 1.08, counts[-1] * (1.75 if len(counts) < 4 else 2.6))
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    for power in range(math.floor(math.log2(low)) - 8, math.ceil(math.log2(high)), 2):
        start = 2.0**power
        panel.plot(
            [counts[0], counts[-1]],
            [start, start * counts[-1]],
            color="#aaaaaa",
            linewidth=0.9,
            linestyle=":",
            zorder=1,
        )
    panel.set_title(workload, fontsize=11, loc="left", fontweight="bold")
    panel.set_xlabel("threads")
    if left:
        panel.set_ylabel("million operations a second")
    panel.spines[["top", "right"]].set_visible(False)


def _labels(panel: Any, result: dict[str, Any], ends: Sequence[tuple[float, str]]) -> None:
    """Write each subject's name beside the end of its line, pushed apart where they would overlap."""
    low, high = (math.log10(limit) for limit in panel.get_ylim())
    step = (high - low) * 0.047
    ordered = sorted(ends)
    heights = [math.log10(rate) for rate, _ in ordered]
    placed = _apart(heights, step, low + step / 2, high - step / 2)
    end = result["settings"]["threads"][-1]
    for (rate, subject), height in zip(ordered, placed, strict=True):
        panel.annotate(
            f"{subject} {rate:.2f}" if rate < 1 else f"{subject} {rate:.1f}",
            xy=(end, rate),
            xytext=(end * 1.1, 10**height),
            va="center",
            fontsize=8.5,
            fontweight="bold" if subject in OURS else "normal",
            color=_colour(result, subject),
            arrowprops={"arrowstyle": "-", "color": _colour(result, subject), "linewidth": 0.5},
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Move ascending heights as little as need be so that neighbours are `step` apart."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + step if placed else low))
    ceiling = high
    for number in reversed(range(len(placed))):
        placed[number] = min(placed[number], ceiling)
        ceiling = placed[number] - step
    return placed


def _median(result: dict[str, Any], workload: str, subject: str, threads: int) -> float:
    for row in result["rows"]:
        if (row["workload"], row["subject"], row["threads"]) == (workload, subject, threads):
            return float(row["operations_per_second"]["median"])
    raise KeyError((workload, subject, threads))


def _colour(result: dict[str, Any], subject: str) -> str:
    others = [name for name in result["subjects"] if name not in OURS]
    return OURS.get(subject) or OTHERS[others.index(subject) % len(OTHERS)]
