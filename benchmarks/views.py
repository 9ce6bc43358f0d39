"""A view's read and put, one thread, against those of another revision: values a second of CPU time.

    make bench-views ARGS="--before REVISION"

Both revisions run the same loops of this one, each in interpreters of its own, in turns. What a figure
contains of the loop is in both of them, so a ratio is, if anything, too small. The revision to compare
with is the last one whose store was interpreted, unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import inprocess
from benchmarks.copies import CopyError, compile_copy, copy_revision, import_path
from benchmarks.inprocess import ROOT
from benchmarks.inprocess_load import OWN_GET, OWN_PUT, measure
from benchmarks.inprocess_subjects import STORE, STRIPED
from benchmarks.measure import say

INTERPRETED: Final = "dbd43b0"
SUBJECTS: Final = (STRIPED, STORE)
WORKLOADS: Final = {"read": OWN_GET, "put": OWN_PUT}
MUST, DREAM = 4.0, 8.0


def loops(seconds: float, keys: int) -> dict[str, float]:
    """Measure what this interpreter imports; return values a CPU second of each subject and verb."""
    return {
        f"{subject.name} {verb}": measure(
            subject, workload, 1, seconds=seconds, keys=keys, clock=time.thread_time
        ).operations_per_second
        for subject in SUBJECTS
        for verb, workload in WORKLOADS.items()
    }


def collect(
    folders: dict[str, Path], rounds: int, seconds: float, keys: int
) -> dict[str, list[dict[str, float]]]:
    """Measure the packages in these folders in turns; return what each gave, round by round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    names = list(folders)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name in names if number % 2 else names[::-1]:
            found[name].append(_in_a_process(folders[name], seconds, keys))
    return found


def _in_a_process(folder: Path, seconds: float, keys: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.views", "--loops", str(seconds), str(keys)]
    done = subprocess.run(
        command,
        cwd=folder,  # the first place in which modules are looked for
        env=import_path(folder, os.environ),
        stdout=subprocess.PIPE,
        check=True,
    )
    said = json.loads(done.stdout)
    if Path(said["package"]).parent.parent != folder.resolve():
        raise CopyError(f"{said['package']} was measured instead of the package in {folder}")
    return dict(said["rates"])


def summarise(before: list[dict[str, float]], now: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return a row for each loop.

    `over` is the median of the rounds' ratios, whose two sides were measured one after the other;
    `over_best` the ratio of the best rounds, which other work on the machine disturbs less.
    """
    rows = []
    for name in before[0]:
        old, new = ([each[name] for each in rates] for rates in (before, now))
        rows.append(
            {
                "loop": name,
                "before": inprocess.spread(old),
                "now": inprocess.spread(new),
                "over": statistics.median(b / a for a, b in zip(old, new, strict=True)),
                "over_best": max(new) / max(old),
            }
        )
    return rows


def targets(rows: Sequence[dict[str, Any]], before: str) -> list[dict[str, Any]]:
    """Hold the rows against what the project wants of itself."""
    return [
        inprocess.target(
            f"{row['loop']}, values a second of CPU, over those of {before}",
            row["over"],
            MUST,
            DREAM,
            best_rounds=row["over_best"],
        )
        for row in rows
    ]


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    head = ["loop, million a second of CPU", result["before"], "this revision", "ratio"]
    rows = [
        [row["loop"], _million(row["before"]), _million(row["now"]), f"{row['over']:.2f}"]
        for row in result["rows"]
    ]
    return "\n\n".join(
        [
            inprocess.describe(result["machine"]),
            inprocess.table(head, rows),
            inprocess.target_table(result["targets"]),
        ]
    )


def _million(rates: dict[str, Any]) -> str:
    median, low, high = (rates[name] / 1e6 for name in ("median", "min", "max"))
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    given = _parser().parse_args(arguments)
    if given.loops:
        seconds, keys = given.loops
        _tell_loops(float(seconds), int(keys))
        return 0
    rounds, seconds, keys = (1, 0.02, 512) if given.quick else (given.rounds, 0.2, 4096)
    with tempfile.TemporaryDirectory(prefix="cacheserver-bench-") as name:
        try:
            copy_revision(given.before, Path(name))
            compile_copy(Path(name))
            found = collect({"before": Path(name), "now": ROOT}, rounds, seconds, keys)
        except CopyError as error:
            say(str(error))
            return 1
    rows = summarise(found["before"], found["now"])
    result = {
        "benchmark": "views",
        "machine": inprocess.machine(),
        "before": given.before,
        "settings": {"rounds": rounds, "seconds": seconds, "keys": keys},
        "rows": rows,
        "targets": targets(rows, given.before),
    }
    print(report(result))
    say(f"wrote {inprocess.write_json(given.output, 'views.json', result)}")
    return 0


def _tell_loops(seconds: float, keys: int) -> None:
    import cacheserver

    print(json.dumps({"package": cacheserver.__file__, "rates": loops(seconds, keys)}))


def _parser() -> argparse.ArgumentParser:
    made = inprocess.parser("Measure a view's read and put against those of another revision.")
    made.add_argument(
        "--before", default=INTERPRETED, metavar="REVISION", help=f"default: {INTERPRETED}"
    )
    made.add_argument("--rounds", type=int, default=9, metavar="N", help="default: 9")
    made.add_argument("--loops", nargs=2, metavar=("SECONDS", "KEYS"), help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    sys.exit(main())
