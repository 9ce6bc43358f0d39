"""Operations on a whole namespace, and what readers and writers notice of them.

    python -m benchmarks.whole [--full] [--quick] [--only WORD ...] [--rounds N] [--output DIR]

Each scenario runs in a process of its own: it fills a namespace from threads that stay, as event loops
do, lets a reader and a writer time everything that they do, takes a look at them while nothing
happens, and does its operation. How long the lock was held is from the namespace's own statistics.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks import inprocess
from benchmarks.inprocess_load import key
from benchmarks.memory import resident
from benchmarks.probe import Collections, Prober, longest_bucket, probing, since
from cacheserver import Store
from cacheserver.server.sweeper import Sweeper
from cacheserver.store.entry import DEFAULT_CONTENT_TYPE
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.namespace import Namespace, NamespaceStatistics

FILLERS: Final = 2
TICK: Final = 0.1
"""Event loops wake that often; what a thread made and others dropped is freed only while it runs."""
BASELINE: Final = 2.0
"""Seconds in which nothing happens, to see what the machine does to the probes by itself."""
AFTER: Final = 1.0
HASTE: Final = 0.1
"""By so much shorter these are in a small run, which proves no more than that it works."""
PROBED: Final = 4096
"""Keys that a probe goes through."""
FILLED: Final = 15_000
"""Entries a second that are written at least, so that they are there before their time is up."""
_PATIENCE: Final = 300.0

type Scenario = Callable[[Bench, int], dict[str, Any]]


class Filler:
    """A thread that writes entries and then stays, waking now and then, as an event loop does."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._jobs: queue.SimpleQueue[tuple[range, float, Future[float]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="filler")
        self._thread.start()

    def fill(self, numbers: range, gone_at: float) -> Future[float]:
        """Write these keys, which are gone at that monotonic second, 0: never.

        The future has the longest time that one took.
        """
        done: Future[float] = Future()
        self._jobs.put((numbers, gone_at, done))
        return done

    def stop(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=TICK)
            except queue.Empty:
                continue
            if job is None:
                return
            numbers, gone_at, done = job
            try:
                done.set_result(self._write(numbers, gone_at))
            except BaseException as error:
                done.set_exception(error)

    def _write(self, numbers: range, gone_at: float) -> float:
        put, now, clock = self._namespace.view().put, time.perf_counter, time.monotonic
        longest, ttl, before = 0.0, 0.0, now()
        for number in numbers:
            if gone_at:
                ttl = gone_at - clock()
            put(key(number), value(number), ttl, DEFAULT_CONTENT_TYPE, None)
            after = now()
            longest = max(longest, after - before)
            before = after
        return longest


def value(number: int) -> bytes:
    """Return 64 bytes."""
    return (b"%d" % number).ljust(64, b".")


class Bench:
    """A filled namespace with its probes."""

    def __init__(self, entries: int) -> None:
        self.store = Store(max_memory=1 << 40)
        self._patience = HASTE if entries <= QUICK else 1.0
        self.namespace = self.store.namespace("bench")
        self._fillers = [Filler(self.namespace) for _ in range(FILLERS)]
        # The server has this done for it: collections then have nothing to do with the entries.
        gc.collect()
        gc.freeze()

    def fill(self, entries: int, gone_at: float = 0) -> float:
        """Write so many entries; return the longest time that one of them took."""
        return max(
            done.result()
            for done in [
                filler.fill(range(at, entries, FILLERS), gone_at)
                for at, filler in enumerate(self._fillers)
            ]
        )

    def close(self) -> None:
        """End the threads."""
        for filler in self._fillers:
            filler.stop()

    def probes(self, entries: int) -> dict[str, Prober]:
        """Return a reader and a writer of this namespace; the writer's keys are among the entries."""

        def numbers() -> list[str]:
            return [key(random.randrange(entries)) for _ in range(PROBED)]

        def read() -> Callable[[int], object]:
            names, do = numbers(), self.namespace.read
            return lambda turn: do(names[turn % PROBED])

        def write() -> Callable[[int], object]:
            names, do, text = numbers(), self.namespace.put, value(0)
            return lambda turn: do(names[turn % PROBED], text)

        return {"reader": Prober(read), "writer": Prober(write)}

    def watch(self, entries: int, do: Callable[[], object]) -> dict[str, Any]:
        """Do something beside the probes. Returns what they saw, and what the locks say."""
        with probing(**self.probes(entries)) as probes, Collections() as collections:
            time.sleep(BASELINE * self._patience)
            baseline = {name: probe.cut().numbers() for name, probe in probes.items()}
            before = self.namespace.statistics()
            began = time.perf_counter()
            do()
            took = time.perf_counter() - began
            after = self.namespace.statistics()
            time.sleep(AFTER * self._patience)
            found = {name: probe.cut().numbers() for name, probe in probes.items()}
        return {
            "entries": entries,
            "took": took,
            "held": held(before, after),
            "waited": waited(before, after),
            "baseline": baseline,
            **found,
            "collections": [seconds for _, seconds in collections.seen],
        }


def held(before: NamespaceStatistics, after: NamespaceStatistics) -> dict[str, Any]:
    """Return how often and how long the whole namespace was held in between."""
    holds = since(after.locks["namespace_write"].holds, before.locks["namespace_write"].holds)
    return {"times": holds.count, "seconds": holds.seconds, "longest": longest_bucket(holds)}


def waited(before: NamespaceStatistics, after: NamespaceStatistics) -> dict[str, float]:
    """Return upper bounds of the longest waits in between, by lock."""
    return {
        name: longest_bucket(since(after.locks[name].waits, before.locks[name].waits))
        for name in ("stripe", "namespace_read", "namespace_write")
    }


def clear(bench: Bench, entries: int) -> dict[str, Any]:
    """Clear it."""
    bench.fill(entries)
    return bench.watch(entries, bench.namespace.clear) | _rss_soon()


def drop(bench: Bench, entries: int) -> dict[str, Any]:
    """Drop it: nobody uses it meanwhile, since it would be gone for the probes."""
    bench.fill(entries)
    before = bench.namespace.statistics()
    began = time.perf_counter()
    bench.store.drop("bench")
    took = time.perf_counter() - began
    return {
        "entries": entries,
        "took": took,
        "held": held(before, bench.namespace.statistics()),
    } | _rss_soon()


def reshape(to: int) -> Scenario:
    """Go from 64 stripes to another number."""

    def do(bench: Bench, entries: int) -> dict[str, Any]:
        bench.fill(entries)
        config = replace(bench.namespace.config, stripes=to)
        return bench.watch(entries, lambda: bench.namespace.configure(config))

    return do


def snapshot(bench: Bench, entries: int) -> dict[str, Any]:
    """Take a snapshot."""
    bench.fill(entries)
    return bench.watch(entries, bench.namespace.snapshot)


def totals(bench: Bench, entries: int) -> dict[str, Any]:
    """Count."""
    bench.fill(entries)
    return bench.watch(entries, bench.namespace.totals)


def limits(bench: Bench, entries: int) -> dict[str, Any]:
    """Lower the limit to half of what is there."""
    bench.fill(entries)
    config = replace(bench.namespace.config, max_entries=entries // 2)
    return bench.watch(entries, lambda: bench.namespace.configure(config))


def policies(bench: Bench, entries: int) -> dict[str, Any]:
    """Go from every policy to every other one."""
    bench.fill(entries)
    pairs = list(itertools.permutations(POLICIES, 2))
    rows: dict[str, float] = {}

    def do() -> None:
        for old, new in pairs:
            bench.namespace.configure(replace(bench.namespace.config, policy=old))
            before = bench.namespace.statistics()
            bench.namespace.configure(replace(bench.namespace.config, policy=new))
            rows[f"{old} to {new}"] = held(before, bench.namespace.statistics())["seconds"]

    return bench.watch(entries, do) | {"pairs": rows}


def growth(bench: Bench, entries: int) -> dict[str, Any]:
    """Fill it: the longest time that a single write took, growth of dicts and lists included."""
    before = bench.namespace.statistics()
    began = time.perf_counter()
    with Collections() as collections:
        longest = bench.fill(entries)
    took = time.perf_counter() - began
    return {
        "entries": entries,
        "took": took,
        "longest": longest,
        "waited": waited(before, bench.namespace.statistics()),
        "collections": [seconds for _, seconds in collections.seen],
    }


def expiry(bench: Bench, entries: int) -> dict[str, Any]:
    """All entries expire at one instant; the sweeper, a reader and a writer meet them."""
    gone_at = time.monotonic() + BASELINE + 1 + entries / FILLED
    empty = _rss()
    bench.fill(entries, gone_at)
    full = _rss()
    others = bench.store.namespace("bench").view()

    def write() -> Callable[[int], object]:
        names = [f"other:{number}" for number in range(PROBED)]
        do, text = bench.namespace.put, value(0)
        return lambda turn: do(names[turn % PROBED], text)

    probes = {"reader": bench.probes(entries)["reader"], "writer": Prober(write)}
    for number in range(PROBED):
        others.put(f"other:{number}", value(0), 0, DEFAULT_CONTENT_TYPE, None)
    sweeper = Sweeper(bench.store)
    cpu: list[float] = []

    def sweep() -> None:
        began = time.thread_time()
        sweeper.run()
        cpu.append(time.thread_time() - began)

    thread = threading.Thread(target=sweep, name="sweeper")
    with probing(**probes):
        time.sleep(max(0.0, gone_at - BASELINE - time.monotonic()))
        for probe in probes.values():
            probe.cut()
        time.sleep(max(0.0, gone_at - time.monotonic()))
        baseline = {name: probe.cut().numbers() for name, probe in probes.items()}
        before = bench.namespace.statistics()
        thread.start()
        gone_after = _wait_until(lambda: bench.namespace.statistics().entries <= PROBED, gone_at)
        sweeper.stop()
        thread.join()
        after = bench.namespace.statistics()
        found = {name: probe.cut().numbers() for name, probe in probes.items()}
    rss = _rss_soon()
    entries_left, bytes_left = bench.namespace.totals()
    bench.fill(entries)
    return {
        "entries": entries,
        "took": gone_after,
        "sweeper_share": cpu[0] / gone_after,
        "waited": waited(before, after),
        "baseline": baseline,
        **found,
        "swept": after.expirations - before.expirations,
        "entries_left": entries_left,
        "bytes_left": bytes_left,
        "rss_empty": empty,
        "rss_full": full,
        **rss,
        "rss_refilled": _rss(),
    }


def _wait_until(true: Callable[[], bool], began: float) -> float:
    while not true():
        if time.monotonic() - began > _PATIENCE:
            raise RuntimeError("expired entries are still there")
        time.sleep(0.01)
    return time.monotonic() - began


def _rss() -> int:
    return resident(os.getpid())["rss"]


def _rss_soon() -> dict[str, int]:
    time.sleep(AFTER)
    return {"rss_after": _rss()}


@dataclass(frozen=True, slots=True)
class Sized:
    """A scenario, and how many entries it is for."""

    do: Scenario
    full: int
    default: int = 100_000


SCENARIOS: Final[dict[str, Sized]] = {
    "fill": Sized(growth, 5_000_000),
    "expiry": Sized(expiry, 1_000_000),
    "clear": Sized(clear, 10_000_000),
    "drop": Sized(drop, 10_000_000),
    "snapshot": Sized(snapshot, 1_000_000),
    "totals": Sized(totals, 1_000_000),
    "64 to 256 stripes": Sized(reshape(256), 1_000_000),
    "64 to 16 stripes": Sized(reshape(16), 1_000_000),
    "policy, all pairs": Sized(policies, 1_000_000),
    "max_entries halved": Sized(limits, 1_000_000),
}
QUICK: Final = 2_000


def inside(name: str, entries: int) -> dict[str, Any]:
    """Run a scenario in this process."""
    if not inprocess.gil_enabled():
        gc.collect()
    bench = Bench(entries)
    try:
        return SCENARIOS[name].do(bench, entries)
    finally:
        bench.close()


def measure(name: str, entries: int) -> dict[str, Any]:
    """Run a scenario in a new process."""
    command = [sys.executable, "-m", "benchmarks.whole"]
    command += ["--inside", name, "--entries", str(entries)]
    done = subprocess.run(
        command, cwd=inprocess.ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return dict(json.loads(done.stdout))


def run(sizes: dict[str, int], rounds: int) -> dict[str, Any]:
    """Run these scenarios; of several rounds all figures are kept."""
    rows = {}
    for name, entries in sizes.items():
        print(f"{name}: {entries:,} entries", file=sys.stderr, flush=True)
        rows[name] = [measure(name, entries) for _ in range(rounds)]
    return {
        "benchmark": "whole",
        "machine": inprocess.machine(),
        "rows": rows,
        "targets": targets(rows),
    }


def targets(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Hold the rows against what the project wants of itself."""
    made = []
    if "expiry" in rows:
        runs = rows["expiry"]
        waits = [1e3 * max(each["waited"].values()) for each in runs]
        made = [
            inprocess.target("expiry: seconds", middle(runs, "took"), 10, 3, at_most=True),
            inprocess.target("expiry: longest wait, ms", max(waits), 5, 1, at_most=True),
        ]
    if "clear" in rows:
        lock = max(1e6 * each["held"]["seconds"] for each in rows["clear"])
        made.append(inprocess.target("clear: lock held, us", lock, 1000, 100, at_most=True))
    return made


def middle(runs: Sequence[dict[str, Any]], *path: str) -> float:
    """Return the median of a figure."""
    found = []
    for each in runs:
        figure: Any = each
        for step in path:
            figure = figure[step]
        found.append(float(figure))
    return float(inprocess.spread(found)["median"])


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    head = ["operation", "entries", "took, ms", "lock held, ms"]
    head += ["longest read, ms", "before", "longest write, ms", "before"]
    rows = []
    for name, runs in result["rows"].items():
        line = [name, f"{runs[0]['entries']:,}", f"{1e3 * middle(runs, 'took'):.1f}"]
        line.append(f"{1e3 * middle(runs, 'held', 'seconds'):.3f}" if "held" in runs[0] else "-")
        for who in ("reader", "writer"):
            line += [_ms(runs, who, "longest"), _ms(runs, "baseline", who, "longest")]
        if "longest" in runs[0]:
            line[-2] = _ms(runs, "longest")
        rows.append(line)
    parts = [
        inprocess.describe(result["machine"]),
        "The longest of a reader and a writer that do nothing else, and beside it the same in "
        f"{BASELINE:g} s before, when nothing happened.",
        inprocess.table(head, rows),
    ]
    parts += _details(result["rows"])
    if result["targets"]:
        parts.append(inprocess.target_table(result["targets"]))
    return "\n\n".join(parts)


def _details(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    parts = []
    for name, runs in rows.items():
        last = runs[-1]
        if "waited" in last:
            waits = ", ".join(f"{lock} {1e3 * most:g} ms" for lock, most in last["waited"].items())
            parts.append(f"- {name}: no wait for a lock was longer than: {waits}")
        if last.get("collections"):
            most = 1e3 * max(last["collections"])
            parts.append(f"- {name}: the longest collection took {most:.2f} ms")
        if "pairs" in last:
            pairs = sorted(last["pairs"].items(), key=lambda pair: pair[1])
            worst = ", ".join(f"{pair} {1e3 * seconds:.1f} ms" for pair, seconds in pairs[-3:])
            best = f"{pairs[0][0]} {1e3 * pairs[0][1]:.1f} ms"
            parts.append(f"- {name}: lock held for at most {worst}; at least {best}")
        if "sweeper_share" in last:
            parts.append(
                f"- {name}: the sweeper took {100 * middle(runs, 'sweeper_share'):.0f} % of a CPU; "
                f"{last['entries_left']:,} entries and {last['bytes_left']:,} bytes were left; "
                f"resident when empty {last['rss_empty'] / 1e6:.0f} MB, full "
                f"{last['rss_full'] / 1e6:.0f}, swept {last['rss_after'] / 1e6:.0f}, filled again "
                f"{last['rss_refilled'] / 1e6:.0f}"
            )
    return parts


def _ms(runs: Sequence[dict[str, Any]], *path: str) -> str:
    if path[0] not in runs[0]:
        return "-"
    return f"{1e3 * middle(runs, *path):.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Measure operations on a whole namespace.")
    parser.add_argument("--full", action="store_true", help="up to 10,000,000 entries")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--entries", type=int, help="in each scenario")
    parser.add_argument("--inside", choices=SCENARIOS, help="run it in this process")
    given = parser.parse_args(arguments)
    if given.inside:
        print(json.dumps(inside(given.inside, given.entries or QUICK)))
        return 0
    sizes = {
        name: given.entries
        or (QUICK if given.quick else sized.full if given.full else sized.default)
        for name, sized in SCENARIOS.items()
        if not given.only or any(word in name for word in given.only)
    }
    result = run(sizes, given.rounds)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'whole.json', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
