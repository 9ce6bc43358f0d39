"""What the benchmarks of the store, its memory and its start have in common."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

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


def usable_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def machine() -> dict[str, Any]:
    """Describe what this runs on: figures mean nothing without it."""
    return {
        "cpus": len(usable_cpus()),
        "cpu_model": _cpu_model(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded_build": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil_enabled": gil_enabled(),
        "optimised_build": "--enable-optimizations"
        in str(sysconfig.get_config_var("CONFIG_ARGS") or ""),
    }


def describe(found: dict[str, Any]) -> str:
    """Put `machine()` into one line."""
    build = "free-threaded" if found["free_threaded_build"] else "with the GIL only"
    if found["free_threaded_build"] and found["gil_enabled"]:
        build += ", GIL turned on"
    optimised = "with PGO" if found["optimised_build"] else "without PGO"
    return (
        f"{found['cpus']} CPUs ({found['cpu_model']}), {found['system']}, "
        f"{found['implementation']} {found['python']} {build}, {optimised}"
    )


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


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
