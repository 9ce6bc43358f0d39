"""The store alone, in process, against other maps: operations a second by threads.

    python -m benchmarks.store [--quick] [--threads 1,2,4] [--rounds N] [--output DIR]

Within a round all subjects and thread counts take turns in a new random order, workload by workload;
the medians over the rounds are compared. Every figure contains the loop around the operation, whose
own time is given. `scale` is the throughput with N threads over that with one; `of ceiling` is that
over the scale of private dicts in the same workload: 1 is what this machine gives to work that
shares nothing. Subjects that evict or count do more than a dict; each is described.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import inprocess
from benchmarks.inprocess_load import (
    FLOORS,
    OWN_GET,
    OWN_PUT,
    SHARED_MIX,
    WORKLOADS,
    Workload,
    can_pin,
    measure,
    measure_floor,
)
from benchmarks.inprocess_subjects import (
    DICT_LOCK,
    DICT_WITH,
    PRIVATE,
    STORE,
    STRIPED,
    Subject,
    choose,
)

type Samples = dict[tuple[str, str, int], list[float]]
"""Operations a second of each round, by workload, subject and threads."""

FLOOR = "no operation"
"""The workload under which the loops that ask no subject are kept."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int
    seconds: float
    threads: tuple[int, ...]
    keys: int


MEDIAN = "median"
BEST = "best"

FULL = {"rounds": 8, "seconds": 0.1, "keys": 4096}
QUICK = {"rounds": 1, "seconds": 0.02, "keys": 512}


def default_threads(cpus: int) -> tuple[int, ...]:
    """Return 1, 2, 4 and so on, up to the number of CPUs, which comes last in any case."""
    return (*(1 << power for power in range((cpus - 1).bit_length())), cpus)


def thread_counts(text: str) -> tuple[int, ...]:
    """Read `1,2,4`; one thread is always among them, the others are compared with it."""
    counts = sorted({1, *(int(part) for part in text.split(","))})
    if counts[0] < 1:
        raise ValueError("thread counts are at least 1")
    return tuple(counts)


def collect(
    subjects: Sequence[Subject], workloads: Sequence[Workload], settings: Settings
) -> Samples:
    """Run all rounds."""
    samples: Samples = {}
    for number in range(settings.rounds):
        print(f"round {number + 1} of {settings.rounds}", file=sys.stderr, flush=True)
        order = random.Random(number)
        floors = [(name, threads) for name in FLOORS for threads in settings.threads]
        for name, threads in order.sample(floors, len(floors)):
            rate = measure_floor(
                name, threads, seconds=settings.seconds, keys=settings.keys, seed=number
            )
            samples.setdefault((FLOOR, name, threads), []).append(rate)
        turns = [(subject, threads) for subject in subjects for threads in settings.threads]
        for workload in workloads:
            for subject, threads in order.sample(turns, len(turns)):
                found = measure(
                    subject,
                    workload,
                    threads,
                    seconds=settings.seconds,
                    keys=settings.keys,
                    seed=number,
                )
                place = (workload.name, subject.name, threads)
                samples.setdefault(place, []).append(found.operations_per_second)
    return samples


def summarise(samples: Samples) -> list[dict[str, Any]]:
    """Return a row for each workload, subject and thread count.

    Ratios are those of medians; those named `best` are of the best rounds, which other work on the
    machine disturbs less.
    """
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for (workload, subject, threads), rates in samples.items():
        rows[workload, subject, threads] = {
            "workload": workload,
            "subject": subject,
            "threads": threads,
            "operations_per_second": inprocess.spread(rates),
        }

    def scale(workload: str, subject: str, threads: int, of: str) -> float | None:
        one, many = rows.get((workload, subject, 1)), rows.get((workload, subject, threads))
        return _rate(many, of) / _rate(one, of) if one and many else None

    for (workload, subject, threads), row in rows.items():
        ceiling = "compute" if workload == FLOOR else PRIVATE.name
        for of, suffix in ((MEDIAN, ""), (BEST, "_best")):
            own = scale(workload, subject, threads, of)
            row[f"scale{suffix}"] = own
            row[f"scale_of_ceiling{suffix}"] = _ratio(own, scale(workload, ceiling, threads, of))
    return list(rows.values())


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold the rows against what the project wants of itself."""
    found = {(row["workload"], row["subject"], row["threads"]): row for row in rows}

    def scale(ours: Subject, workload: Workload) -> dict[str, Any]:
        row = found.get((workload.name, ours.name, 2), {})
        return inprocess.target(
            f"{ours.name}: {workload.name}, scale to 2 threads, over the ceiling's",
            row.get("scale_of_ceiling"),
            0.9,
            1.0,
            best_rounds=row.get("scale_of_ceiling_best"),
        )

    def over(ours: Subject, other: Subject) -> dict[str, Any]:
        mine, theirs = (found.get((SHARED_MIX.name, each.name, 2)) for each in (ours, other))
        median, best = (
            _rate(mine, of) / _rate(theirs, of) if mine and theirs else None
            for of in (MEDIAN, BEST)
        )
        name = f"{ours.name}: {SHARED_MIX.name}, 2 threads, over {other.name}"
        return inprocess.target(name, median, 1.8, 3.0, best_rounds=best)

    return [
        judged
        for ours in (STRIPED, STORE)
        for judged in (
            *(scale(ours, workload) for workload in (OWN_GET, OWN_PUT)),
            over(ours, DICT_LOCK),
            over(ours, DICT_WITH),
        )
    ]


def quietness(rows: Sequence[dict[str, Any]]) -> float:
    """Return the slowest round of pure computing over the fastest: 1 where nothing else ran."""
    rates = next(
        row["operations_per_second"]
        for row in rows
        if (row["workload"], row["subject"], row["threads"]) == (FLOOR, "compute", 1)
    )
    return float(rates["min"] / rates["max"])


def run(
    subjects: Sequence[Subject], settings: Settings, left_out: dict[str, str]
) -> dict[str, Any]:
    """Measure, and return all there is to say about it."""
    rows = summarise(collect(subjects, WORKLOADS, settings))
    return {
        "benchmark": "store",
        "machine": inprocess.machine() | {"pinned": can_pin()},
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "threads": list(settings.threads),
            "keys": settings.keys,
        },
        "subjects": {subject.name: subject.what for subject in subjects},
        "left_out": left_out,
        "quietness": quietness(rows),
        "rows": rows,
        "targets": targets(rows),
    }


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    machine, settings = result["machine"], result["settings"]
    pinned = "each thread bound to a CPU" if machine["pinned"] else "threads not bound to CPUs"
    parts = [
        inprocess.describe(machine),
        f"{settings['rounds']} rounds of {settings['seconds']} s, {settings['keys']:,} keys, {pinned}. "
        "Million operations a second: median (lowest to highest). The slowest round of pure "
        f"computing had {result['quietness']:.2f} of the fastest's rate: where that is far below 1, other "
        "work disturbed the medians.",
        "\n".join(f"- {name}: {what}" for name, what in result["subjects"].items()),
    ]
    parts += [f"- left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    for workload in dict.fromkeys(row["workload"] for row in result["rows"]):
        parts.append(f"{workload}\n\n{_workload_table(result, workload)}")
    parts.append(inprocess.target_table(result["targets"]))
    return "\n\n".join(parts)


def _workload_table(result: dict[str, Any], workload: str) -> str:
    counts = result["settings"]["threads"]
    head = ["subject", *(f"{count} thread{'s' * (count > 1)}" for count in counts)]
    for count in counts[1:]:
        head += [f"scale {count}", "of ceiling"]
    if workload == FLOOR:
        head.append("ns a pass, 1 thread")
    by_subject: dict[str, dict[int, dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["workload"] == workload:
            by_subject.setdefault(row["subject"], {})[row["threads"]] = row
    table = []
    for subject, rows in by_subject.items():
        line = [subject, *(_million(rows[count]["operations_per_second"]) for count in counts)]
        for count in counts[1:]:
            line += [f"{rows[count][name]:.2f}" for name in ("scale", "scale_of_ceiling")]
        if workload == FLOOR:
            line.append(f"{1e9 / _rate(rows[1], MEDIAN):.0f}")
        table.append(line)
    order = ["compute", *FLOORS, *result["subjects"]]
    return inprocess.table(head, sorted(table, key=lambda line: order.index(line[0])))


def _million(rates: dict[str, Any]) -> str:
    median, low, high = (rates[name] / 1e6 for name in ("median", "min", "max"))
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _rate(row: dict[str, Any], of: str) -> float:
    return float(row["operations_per_second"]["median" if of == MEDIAN else "max"])


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Measure the store alone, in process, against other maps.")
    parser.add_argument("--threads", type=thread_counts, metavar="1,2,4")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--keys", type=int)
    parser.add_argument("--no-plot", action="store_true")
    given = parser.parse_args(arguments)

    chosen: dict[str, Any] = dict(QUICK if given.quick else FULL)
    chosen |= {name: value for name in chosen if (value := getattr(given, name)) is not None}
    threads = given.threads or default_threads(len(inprocess.usable_cpus()))
    subjects, left_out = choose()
    result = run(subjects, Settings(threads=threads, **chosen), left_out)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'store.json', result)}")
    if not given.no_plot:
        _plot(result, given.output)
    return 0


def _plot(result: dict[str, Any], folder: Path) -> None:
    try:
        from benchmarks.inprocess_plot import draw
    except ModuleNotFoundError as error:
        print(f"no plot: {error}")
        return
    for path in draw(result, folder):
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
