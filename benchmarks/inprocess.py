"""What the benchmarks of the store, its memory and its start have in common."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cacheserver.patterns.measure import describe as describe
from cacheserver.patterns.measure import gil_enabled as gil_enabled
from cacheserver.patterns.measure import machine as machine
from cacheserver.patterns.measure import usable_cpus as usable_cpus

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"


def parser(purpose: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that all of these benchmarks take."""
    made = argparse.ArgumentParser(description=purpose)
    made.add_argument("--quick", action="store_true", help="a small run that proves it works")
    made.add_argument(
        "--output", type=Path, default=RESULTS, metavar="DIR", help="default: results"
    )
    return made


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Return median, lowest and highest of the samples, and the samples themselves."""
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }


def target(
    name: str,
    value: float | None,
    must: float,
    dream: float,
    *,
    at_most: bool = False,
    best_rounds: float | None = None,
) -> dict[str, Any]:
    """Hold a figure against what it must and what it might reach; None was not measured.

    `best_rounds` is the same figure without most of what disturbed the measurement: shown beside it,
    and not judged.
    """

    def met(bound: float) -> bool | None:
        if value is None:
            return None
        return value <= bound if at_most else value >= bound

    return {
        "name": name,
        "value": value,
        "best_rounds": best_rounds,
        "must": must,
        "dream": dream,
        "direction": "at most" if at_most else "at least",
        "met": met(must),
        "dream_met": met(dream),
    }


def target_table(targets: Sequence[dict[str, Any]]) -> str:
    """Return the targets as a Markdown table."""
    words = {None: "not measured", True: "yes", False: "no"}
    rows = [
        [
            each["name"],
            _figure(each["value"]),
            _figure(each["best_rounds"]),
            f"{each['direction']} {each['must']:g}",
            words[each["met"]],
            f"{each['dream']:g}",
            words[each["dream_met"]],
        ]
        for each in targets
    ]
    return table(["target", "median", "best rounds", "must", "met", "dream", "met"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up; all but the first are aligned right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(map(line, [head, rule, *rows]))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_json(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Write the result under this name; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
