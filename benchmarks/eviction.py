"""Hit ratios of every eviction policy, through the real StripedDict, against libcachesim and Belady.

    python -m benchmarks.eviction [--trace PATH]... [--quick] [--oracle PYTHON] [--output DIR]

Each request is a `get`, and a write where that finds nothing; `max_entries` is 1, 5 and 10 per cent of the
keys that the load has. Ends with status 1 where a policy is outside its bound against libcachesim,
which runs in an interpreter of its own (`scripts/provision oracle-tools`); without one it goes on
and says so. Traces have a key a line, text or gzip. Figures don't depend on how fast the machine is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import timeit
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import inprocess
from benchmarks.eviction_loads import optimal_hits, read_trace, shifting, with_scans, zipf
from cacheserver import StripedDict
from cacheserver.store.eviction.policy import POLICIES, Policy, make_policy
from cacheserver.store.eviction.slots import Slots

COMPARED: Final = ("sieve", "s3fifo", "lru", "lfu", "fifo", "random")
"""Without deadlines `ttl` is fifo, and `none` lets nothing go."""
OPTIMUM: Final = "optimum"
SIZES: Final = (1, 5, 10)
"""Per cent of the keys."""
STRIPES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STRIPED_LOAD: Final = "Zipf 0.9"
SMALL_LRU: Final = 150
"""Entries below which `lru` is not judged: too many hits fall between two insertions, and in one epoch."""
ORACLE: Final = inprocess.ROOT / ".venv-oracle" / "bin" / "python"


class Bound(NamedTuple):
    """How far a hit ratio may be from the oracle's."""

    difference: float
    only_below: bool = False
    """A policy that hits more often than the oracle's is not held against that."""

    def holds(self, ours: float, theirs: float) -> bool:
        return abs(ours - theirs) <= self.difference or (self.only_below and ours > theirs)


BOUNDS: Final = {
    "fifo": Bound(0.001),
    "lru": Bound(0.001),
    "sieve": Bound(0.001),
    "s3fifo": Bound(0.01, only_below=True),
    "lfu": Bound(0.01, only_below=True),
}


class Scale(NamedTuple):
    """How much is generated."""

    keys: int
    requests: int
    entries: int
    """In the measurement of memory and time."""


FULL: Final = Scale(keys=20_000, requests=150_000, entries=100_000)
QUICK: Final = Scale(keys=2_000, requests=10_000, entries=5_000)


def generated(scale: Scale) -> dict[str, list[int]]:
    """Return the loads that need no trace."""
    keys, requests = scale.keys, scale.requests
    return {
        "Zipf 0.7": zipf(0.7, keys, requests),
        "Zipf 0.9": zipf(0.9, keys, requests),
        "Zipf 1.1": zipf(1.1, keys, requests),
        "Zipf 0.9 and scans": with_scans(0.9, keys, requests, scans=10),
        "shifting Zipf 0.9": shifting(0.9, keys, requests, phases=8),
    }


def hit_ratio(requests: Sequence[int], entries: int, policy: str, stripes: int = 1) -> float:
    """Return the share of requests that a StripedDict of so many entries answers."""
    cache: StripedDict[int, bytes] = StripedDict(stripes, policy=policy, max_entries=entries)
    get, misses = cache.get, 0
    for key in requests:
        if get(key) is None:
            misses += 1
            cache[key] = b""
    assert len(cache) <= entries
    return 1 - misses / len(requests)


def measure(loads: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return a row for each load, size and policy, the optimum among them."""
    rows = []
    for load, requests in loads.items():
        keys = len(set(requests))
        for size in SIZES:
            entries = max(1, keys * size // 100)
            for policy in (OPTIMUM, *COMPARED):
                ratio = (
                    optimal_hits(requests, entries) / len(requests)
                    if policy == OPTIMUM
                    else hit_ratio(requests, entries, policy)
                )
                rows.append(
                    {
                        "load": load,
                        "size": size,
                        "entries": entries,
                        "policy": policy,
                        "hit_ratio": ratio,
                    }
                )
        print(f"measured: {load}", file=sys.stderr, flush=True)
    return rows


def measure_striping(requests: Sequence[int]) -> list[dict[str, Any]]:
    """Return the hit ratio for each policy and number of stripes, at the largest size."""
    entries = len(set(requests)) * SIZES[-1] // 100
    return [
        {
            "policy": policy,
            "stripes": stripes,
            "entries": entries,
            "hit_ratio": hit_ratio(requests, entries, policy, stripes),
        }
        for policy in COMPARED
        for stripes in STRIPES
    ]


# What a policy costs.


class _NoDeadlines:
    def soonest(self) -> int:
        return 0


def filled(name: str, entries: int) -> tuple[Slots[int], Policy]:
    """Return a stripe's slots and policy with so many entries, one hit in three, some evicted since."""
    slots: Slots[int] = Slots()
    policy = make_policy(name, slots, _NoDeadlines())
    for key in range(entries):
        policy.add(slots.allocate(key))
    if policy.needs_marks:
        marks = slots.new_marks(policy.head)
        for slot in list(policy)[::3]:
            marks[slot] = marks[marks[slot]]
    for key in range(entries, entries + entries // 10):
        replace_one(slots, policy, key)
    return slots, policy


def replace_one(slots: Slots[int], policy: Policy, key: int) -> None:
    """Do what an insertion into a full stripe asks of the policy."""
    gone = policy.victim()
    if gone:
        slots.release(gone)
        policy.add(slots.allocate(key))


def bytes_of(thing: object) -> int:
    """Return the memory of slots or a policy: arrays and lists of them, keys not counted."""
    total = sys.getsizeof(thing)
    if isinstance(thing, Slots):  # compiled: it has no dict to look into
        return total + sum(
            map(_held, (thing.keys, thing.newer, thing.older, thing.places, thing.reach))
        )
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            total += _held(getattr(thing, name, None))
    return total + sum(map(_held, getattr(thing, "__dict__", {}).values()))


def _held(part: object) -> int:
    if isinstance(part, Slots) or part is None:
        return 0
    if isinstance(part, tuple | list):
        nested = [each for each in part if isinstance(each, bytearray | tuple)]
        return sys.getsizeof(part) + sum(map(_held, nested))
    if type(part).__module__.startswith("cacheserver."):
        return bytes_of(part)
    return sys.getsizeof(part)


def costs(scale: Scale) -> list[dict[str, Any]]:
    """Return bytes an entry and microseconds an eviction and insertion, of each policy."""
    rows = []
    for name in POLICIES:
        slots, policy = filled(name, scale.entries)
        size = (bytes_of(slots) + bytes_of(policy)) / slots.count
        rounds = min(scale.entries // 20, 2_000)
        samples = timeit.repeat(
            lambda slots=slots, policy=policy: replace_one(slots, policy, 0),  # type: ignore[misc]
            number=rounds,
            repeat=25,
        )
        rows.append({"policy": name, "bytes": size, "microseconds": min(samples) / rounds * 1e6})
    return rows


# The oracle.


def ask_oracle(
    python: Path, loads: Mapping[str, Sequence[int]], rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[tuple[str, int, str], float | None], str]:
    """Return libcachesim's hit ratios by load, size and policy, and why there are none, if so."""
    asked = [row for row in rows if row["policy"] in BOUNDS]
    if not python.exists():
        return {}, f"there is no {python}: run scripts/provision oracle-tools"
    jobs = [[row["load"], row["policy"], row["entries"]] for row in asked]
    done = subprocess.run(
        [python, "-I", Path(__file__).with_name("eviction_oracle.py")],
        input=json.dumps({"loads": loads, "jobs": jobs}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {}, f"it failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    keys = [(row["load"], row["size"], row["policy"]) for row in asked]
    return dict(zip(keys, json.loads(done.stdout), strict=True)), ""


def judge(
    rows: Sequence[Mapping[str, Any]], oracle: Mapping[tuple[str, int, str], float | None]
) -> list[dict[str, Any]]:
    """Return a row for each comparison: the difference, and whether it is within the bound.

    None where there is nothing to compare with, or `lru` is too small to be judged.
    """
    compared = []
    for row in rows:
        place = row["load"], row["size"], row["policy"]
        if place not in oracle:
            continue
        theirs = oracle[place]
        judged = theirs is not None and not (row["policy"] == "lru" and row["entries"] < SMALL_LRU)
        compared.append(
            {
                **row,
                "oracle": theirs,
                "difference": None if theirs is None else row["hit_ratio"] - theirs,
                "within": BOUNDS[row["policy"]].holds(row["hit_ratio"], theirs)
                if judged and theirs is not None
                else None,
            }
        )
    return compared


# Words.


def report(result: Mapping[str, Any]) -> str:
    """Return the result as Markdown."""
    parts = [
        inprocess.describe(result["machine"]),
        "## Hit ratios, per cent",
        ratio_table(result["rows"]),
        "## Against libcachesim, percentage points",
    ]
    if result["no_oracle"]:
        parts.append(f"Not compared: {result['no_oracle']}.")
    else:
        parts += [difference_table(result["compared"]), verdict(result["compared"])]
    parts += [
        f"## {STRIPED_LOAD} by number of stripes, per cent",
        striping_table(result["striping"]),
        "## What a policy costs in a stripe",
        cost_table(result["costs"]),
    ]
    return "\n\n".join(parts)


def ratio_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each load and size, a column for each policy."""
    head = ["load", "size", "entries", OPTIMUM, *COMPARED]
    lines = []
    for load, size, entries in dict.fromkeys(
        (row["load"], row["size"], row["entries"]) for row in rows
    ):
        found = {
            row["policy"]: row["hit_ratio"]
            for row in rows
            if (row["load"], row["size"]) == (load, size)
        }
        best = max(found[policy] for policy in COMPARED)
        cells = [_percent(found[policy], found[policy] == best) for policy in (OPTIMUM, *COMPARED)]
        lines.append([load, f"{size} %", f"{entries:,}", *cells])
    return inprocess.table(head, lines)


def difference_table(compared: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each load and size: ours less libcachesim's."""
    lines = []
    for load, size, entries in dict.fromkeys(
        (row["load"], row["size"], row["entries"]) for row in compared
    ):
        found = {
            row["policy"]: row for row in compared if (row["load"], row["size"]) == (load, size)
        }
        lines.append(
            [load, f"{size} %", f"{entries:,}", *(_points(found[each]) for each in BOUNDS)]
        )
    return inprocess.table(["load", "size", "entries", *BOUNDS], lines)


def verdict(compared: Sequence[Mapping[str, Any]]) -> str:
    """Say of each policy how far it is from its oracle at most."""
    lines = []
    for policy, bound in BOUNDS.items():
        judged = [row for row in compared if row["policy"] == policy and row["within"] is not None]
        if not judged:
            continue
        outside = [row for row in judged if not row["within"]]
        lowest, highest = (end(row["difference"] for row in judged) for end in (min, max))
        lines.append(
            f"- {policy}: {lowest:+.4f} to {highest:+.4f} in {len(judged)} comparisons, bound "
            f"{bound.difference}{' below' if bound.only_below else ''}: "
            + ("; ".join(_place(row) for row in outside) or "within it")
        )
    return "\n".join(lines)


def striping_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each policy, a column for each number of stripes."""
    lines = [
        [policy, *(_percent(row["hit_ratio"]) for row in rows if row["policy"] == policy)]
        for policy in COMPARED
    ]
    return inprocess.table([f"{rows[0]['entries']:,} entries", *map(str, STRIPES)], lines)


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each policy."""
    head = ["policy", "bytes an entry", "us to evict and insert"]
    return inprocess.table(
        head,
        [
            [
                row["policy"],
                f"{row['bytes']:.1f}",
                "-" if row["policy"] == "none" else f"{row['microseconds']:.1f}",
            ]
            for row in rows
        ],
    )


def _percent(ratio: float, best: bool = False) -> str:
    return f"**{100 * ratio:.2f}**" if best else f"{100 * ratio:.2f}"


def _points(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return "-"
    points = f"{100 * row['difference']:+.2f}"
    return f"({points})" if row["within"] is None else points + "!" * (not row["within"])


def _place(row: Mapping[str, Any]) -> str:
    return f"OUTSIDE at {row['load']}, {row['size']} %: {row['difference']:+.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    given = _parser().parse_args(arguments)
    scale = QUICK if given.quick else FULL
    loads = generated(scale) | {_name(path): read_trace(path) for path in given.trace}
    rows = measure(loads)
    oracle, why_not = ask_oracle(given.oracle, loads, rows)
    result: dict[str, Any] = {
        "machine": inprocess.machine(),
        "loads": {
            name: {"requests": len(requests), "keys": len(set(requests))}
            for name, requests in loads.items()
        },
        "rows": rows,
        "compared": judge(rows, oracle),
        "no_oracle": why_not,
        "striping": measure_striping(loads[STRIPED_LOAD]),
        "costs": costs(scale),
    }
    words = report(result)
    print(words)
    written = inprocess.write_json(given.output, "eviction.json", result)
    (given.output / "eviction.md").write_text(words + "\n", encoding="utf-8")
    print(f"\nwritten: {written}")
    if not given.no_plot:
        _plot(result, given.output)
    return int(any(row["within"] is False for row in result["compared"]))


def _parser() -> argparse.ArgumentParser:
    parser = inprocess.parser("Measure the hit ratios of the eviction policies.")
    parser.add_argument(
        "--trace", type=Path, action="extend", nargs="+", default=[], metavar="PATH"
    )
    parser.add_argument(
        "--oracle", type=Path, default=ORACLE, metavar="PYTHON", help="one that has libcachesim"
    )
    parser.add_argument("--no-plot", action="store_true")
    return parser


def _name(path: Path) -> str:
    return path.name.partition(".")[0]


def _plot(result: Mapping[str, Any], folder: Path) -> None:
    try:
        from benchmarks.eviction_plot import draw
    except ModuleNotFoundError as error:
        print(f"no plot: {error}")
        return
    for path in draw(result, folder):
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
