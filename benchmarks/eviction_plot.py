"""Draws hit ratios: a panel a load, a line a policy; and what striping costs.

In the panels of loads the optimum is the dotted line on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.eviction import COMPARED, OPTIMUM, SIZES, STRIPED_LOAD, STRIPES

COLUMNS: Final = 4
COLOURS: Final = {
    OPTIMUM: "#111111",
    "sieve": "#c1121f",
    "s3fifo": "#f77f00",
    "lru": "#1d3557",
    "lfu": "#2a9d8f",
    "fifo": "#6c757d",
    "random": "#b7a57a",
}


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write eviction.png and eviction.svg; return where."""
    mpl.rcParams["svg.hashsalt"] = "cacheserver"  # the same figures give the same file
    loads = list(result["loads"])
    rows = -(-(len(loads) + 1) // COLUMNS)
    figure = Figure(figsize=(3.7 * COLUMNS, 3.1 * rows + 0.9), dpi=100, layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for panel, load in zip(panels, loads, strict=False):
        _load(panel, result, load)
    _striping(panels[len(loads)], result)
    for panel in panels[len(loads) + 1 :]:
        panel.set_visible(False)
    for number, panel in enumerate(panels):
        if number % COLUMNS == 0 and number < len(loads):
            panel.set_ylabel("hit ratio, per cent")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=len(names), frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "eviction.png", folder / "eviction.svg"]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _load(panel: Any, result: Mapping[str, Any], load: str) -> None:
    for policy in (OPTIMUM, *COMPARED):
        found = [row for row in result["rows"] if (row["load"], row["policy"]) == (load, policy)]
        panel.plot(
            [row["size"] for row in found],
            [100 * row["hit_ratio"] for row in found],
            label=policy,
            color=COLOURS[policy],
            linewidth=2.2 if policy == "sieve" else 1.3,
            linestyle=":" if policy == OPTIMUM else "-",
            marker="o",
            markersize=3.5,
            zorder=3 if policy == "sieve" else 2,
        )
    panel.set_title(load, fontsize=10, loc="left", fontweight="bold")
    panel.set_xticks(SIZES, [f"{size} %" for size in SIZES])
    panel.set_xlabel("cache size, of the keys")
    panel.set_ylim(bottom=0)
    _plain(panel)


def _striping(panel: Any, result: Mapping[str, Any]) -> None:
    rows = result["striping"]
    for policy in COMPARED:
        ratios = [100 * row["hit_ratio"] for row in rows if row["policy"] == policy]
        panel.plot(
            STRIPES,
            [ratio - ratios[0] for ratio in ratios],
            color=COLOURS[policy],
            linewidth=2.2 if policy == "sieve" else 1.3,
            marker="o",
            markersize=3.5,
        )
    panel.set_title(
        f"{STRIPED_LOAD} in stripes, {rows[0]['entries']:,} entries",
        fontsize=10,
        loc="left",
        fontweight="bold",
    )
    panel.set_xscale("log", base=2)
    panel.set_xticks(STRIPES, map(str, STRIPES))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("stripes")
    panel.set_ylabel("points against 1 stripe")
    _plain(panel)


def _plain(panel: Any) -> None:
    panel.grid(axis="y", color="#e4e7eb")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
