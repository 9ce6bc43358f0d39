"""Everything at once for minutes, to see that the store stays right and does not grow.

    python -m benchmarks.soak [--seconds S] [--threads N] [--seed N] [--output DIR]

Threads read, write, compare and set, delete, touch, append and count, in namespaces that are full,
and move amounts between accounts by transactions. Meanwhile namespaces are cleared, dropped and made, and
get other stripes, policies and limits; entries expire, and the server's sweeper sweeps. All the time:

- no answer is wrong: a value belongs to its key, has not expired, and versions only rise;
- limits hold, each sampled under the lock of its namespace, to within a value a thread;
- the accounts of every snapshot add up.

At the end, when all is still, the accounting is exact (`tests/support/invariants.py`), no increment was
lost, and after everything is dropped not a byte is taken. Resident memory doesn't grow: see GROWTH. The exit
status is 1 where any of this is not so.
"""

from __future__ import annotations

import collections
import faulthandler
import gc
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import inprocess
from benchmarks.memory import resident
from cacheserver import Condition, Conflict, Store, Written, operations
from cacheserver.errors import CacheServerError, Contention, LimitExceeded
from cacheserver.server.sweeper import Sweeper
from cacheserver.store.entry import DEADLINE, VALUE, VERSION, Entry
from cacheserver.store.eviction.policy import POLICIES
from cacheserver.store.outcomes import Missing, Put, Refused
from cacheserver.store.store import StoreView
from tests.support.inside import budget_of
from tests.support.invariants import check_invariants

MAX_MEMORY: Final = 16 << 20
LARGEST: Final = 32 << 10
"""Bytes of the largest value."""
KEYS: Final = 1_500
"""Of each namespace."""
COUNTERS: Final = 50
ACCOUNTS: Final = 40
AMOUNT: Final = 1_000
MIXED: Final = ("mixed-0", "mixed-1", "mixed-2")
PASSING: Final = ("passing-0", "passing-1", "passing-2", "passing-3")
EVERY: Final = 0.2
"""Seconds between two changes of the whole, and between two looks at the limits."""
STRIPES: Final = (1, 2, 8, 16, 64, 256)
WARM_UP: Final = 0.25
"""The part of the time before resident memory counts: it takes that long to have been full a few times."""
GROWTH: Final = 0.1
"""The second half of the rest may have so much more resident memory than the first half, at the median.
What is kept goes up and down by less, since the store is full nearly all the time, and an allocator
that fragments gets slower; a leak doesn't. One of a byte an operation would be seen after some 5 minutes."""
JUDGED_FROM: Final = 120.0
"""Seconds of a run from which on growth is judged: in a shorter one memory has not settled."""
_HANGS: Final = 60.0

type Work = Callable[[], str]
"""Does something; returns what to count it as."""


class Wrong(Exception):
    """The store did what it must not."""


@dataclass(slots=True)
class Seen:
    """What the checking thread has seen."""

    looks: int = 0
    excess: dict[str, int] = field(default_factory=lambda: collections.defaultdict(int))
    """By how much a limit was exceeded, at most."""
    rss: list[tuple[float, int]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    """Bytes that the store counted, beside each of `rss`."""


class Soak:
    """A store, and all that is done to it."""

    def __init__(self, threads: int, seed: int) -> None:
        self.store = Store(max_memory=MAX_MEMORY, stripes=16)
        self.seed = seed
        self.seen = Seen()
        self.changes: collections.Counter[str] = collections.Counter()
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self.config_lock = threading.Lock()  # held by who changes, and by who compares with limits
        self.workers = [Worker(self, number) for number in range(threads)]
        self._sweeper = Sweeper(self.store)
        self._started = 0.0
        for name in ("counters", "accounts"):
            operations.put_namespace(self.store, name, {"policy": "none"})
        accounts = self.store.namespace("accounts")
        for number in range(ACCOUNTS):
            accounts.put(f"account-{number}", b"%d" % AMOUNT)

    def run(self, seconds: float) -> float:
        """Work for so long, or until something is wrong. Returns how long it was."""
        work: list[Callable[[], None]] = [worker.run for worker in self.workers]
        work += [self._change, self._check, self._sweeper.run]
        threads = [threading.Thread(target=self._guarded, args=(each,)) for each in work]
        self._started = time.monotonic()
        for thread in threads:
            thread.start()
        self.stopping.wait(seconds)
        took = time.monotonic() - self._started
        self.stop()
        for thread in threads:
            thread.join()
        return took

    def stop(self) -> None:
        """Have all threads end."""
        self.stopping.set()
        self._sweeper.stop()

    def settle(self) -> None:
        """Hold what is there, now that all is still, against what must be. AssertionError, Wrong."""
        for _ in self.store.sweep():
            pass
        self._check_counters()
        self._check_accounts()
        check_invariants(self.store)
        for name in self.store.names():
            self.store.drop(name)
        if (used := budget_of(self.store).used()) != 0:
            raise Wrong(f"nothing is kept, and {used} bytes are taken")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)
            self.stop()

    def _check_counters(self) -> None:
        expected: collections.Counter[str] = collections.Counter()
        for worker in self.workers:
            expected.update(worker.increments)
        counters = self.store.namespace("counters")
        for key, count in expected.items():
            entry = counters.read(key)
            kept = 0 if entry is None else int(entry[VALUE])
            if kept != count:
                raise Wrong(f"{key} was incremented {count} times and is {kept}")

    def _check_accounts(self) -> None:
        entries = self.store.namespace("accounts").snapshot().values()
        total = sum(int(entry[VALUE]) for entry in entries)
        if (len(entries), total) != (ACCOUNTS, ACCOUNTS * AMOUNT):
            raise Wrong(f"{ACCOUNTS} accounts had {ACCOUNTS * AMOUNT}, {len(entries)} have {total}")

    # What changes the whole, and who looks whether limits hold.

    def _change(self) -> None:
        rng = random.Random(f"{self.seed}:changes")
        while not self.stopping.wait(rng.random() * 2 * EVERY):
            with self.config_lock:
                self.changes[self._change_something(rng)] += 1

    def _change_something(self, rng: random.Random) -> str:
        store, mixed, what = self.store, rng.choice(MIXED), rng.randrange(7)
        if what == 0:
            operations.clear_namespace(store, mixed)
            return "clear"
        if what == 1:
            operations.delete_namespace(store, rng.choice(PASSING))
            return "drop"
        if what == 2:
            fields: dict[str, Any] = {"stripes": rng.choice(STRIPES)}
            operations.put_namespace(store, rng.choice(PASSING), fields)
            return "create"
        if what == 3:
            fields = {"stripes": rng.choice(STRIPES)}
            name = rng.choice((mixed, "counters", "accounts"))
            operations.patch_namespace(store, name, fields)
            return "stripes"
        if what == 4:
            # One of them always evicts, so that there is room for the others.
            policies = [name for name in POLICIES if name != "none" or mixed != MIXED[0]]
            operations.patch_namespace(store, mixed, {"policy": rng.choice(policies)})
            return "policy"
        if what == 5:
            operations.patch_namespace(store, mixed, {"default_ttl": rng.choice((0, 0.5, 5))})
            return "default TTL"
        return self._change_limits(mixed, rng)

    def _change_limits(self, name: str, rng: random.Random) -> str:
        namespace = self.store.get(name)
        if namespace is None or namespace.config.policy == "none":
            return "limits (none)"  # a lower one would not hold at once
        limits = {
            "max_bytes": rng.choice((None, rng.randrange(1 << 20, 16 << 20))),
            "max_entries": rng.choice((None, rng.randrange(50, KEYS))),
        }
        operations.patch_namespace(self.store, name, limits)
        return "limits"

    def _check(self) -> None:
        due = 0.0
        while not self.stopping.wait(EVERY):
            self._check_limits()
            self._check_accounts()
            self.seen.looks += 1
            now = time.monotonic() - self._started
            if now >= due:
                due = now + 1.0
                self.seen.rss.append((now, resident(os.getpid())["rss"]))
                self.seen.kept.append(self.store.statistics().bytes)

    def _check_limits(self) -> None:
        a_value_each = (LARGEST + 1024) * len(self.workers)
        self._exceeds("max_memory", budget_of(self.store).used() - MAX_MEMORY, a_value_each)
        for name in MIXED:
            with self.config_lock:
                namespace = self.store.get(name)
                if namespace is None:
                    continue
                config, (entries, size) = namespace.config, namespace.totals()
            if config.max_bytes is not None:
                self._exceeds("max_bytes", size - config.max_bytes, a_value_each)
            if config.max_entries is not None:
                self._exceeds("max_entries", entries - config.max_entries, len(self.workers))

    def _exceeds(self, limit: str, excess: int, allowed: int) -> None:
        self.seen.excess[limit] = max(self.seen.excess[limit], excess)
        if excess > allowed:
            raise Wrong(f"{limit} is exceeded by {excess}")


class Worker:
    """One thread that does everything by turns, and knows what it did."""

    def __init__(self, soak: Soak, number: int) -> None:
        self._soak = soak
        self._random = random.Random(f"{soak.seed}:{number}")
        self._blob = self._random.randbytes(LARGEST)
        self._versions: dict[tuple[str, str], int] = {}
        self._clock = soak.store.clock
        self._view: StoreView
        self.done: collections.Counter[str] = collections.Counter()
        self.increments: collections.Counter[str] = collections.Counter()
        self._work: tuple[Work, ...]
        self._weights: tuple[int, ...]
        self._work, self._weights = zip(
            *(
                (self._get, 30),
                (self._put, 20),
                (self._put_for_a_while, 10),
                (self._compare_and_set, 8),
                (self._delete, 5),
                (self._touch, 5),
                (self._append, 2),
                (self._increment, 10),
                (self._transfer, 5),
                (self._write_several, 3),
            ),
            strict=True,
        )

    def run(self) -> None:
        """Work until it is time to stop."""
        self._view = self._soak.store.view()
        stopping, draw = self._soak.stopping, self._random.choices
        while not stopping.is_set():
            for work in draw(self._work, self._weights, k=100):
                try:
                    self.done[work()] += 1
                except LimitExceeded:  # nothing may go for it: so it is refused
                    self.done["refused, full"] += 1
                except Contention:
                    self.done["gave up"] += 1

    # Each returns what it was.

    def _get(self) -> str:
        name, key = self._pick()
        return "get, hit" if self._read(name, key) else "get, miss"

    def _put(self) -> str:
        name, key = self._pick()
        self._wrote(name, key, operations.put(self._view, name, key, self._value(key), ttl=0))
        return "put"

    def _put_for_a_while(self) -> str:
        name, key = self._pick()
        ttl = 10 ** (self._random.random() * 4 - 3)
        self._wrote(name, key, operations.put(self._view, name, key, self._value(key), ttl=ttl))
        return "put with TTL"

    def _compare_and_set(self) -> str:
        name, key = self._pick()
        entry = self._read(name, key)
        expected = 0 if entry is None else entry[VERSION]
        outcome = operations.compare_and_set(self._view, name, key, expected, self._value(key))
        self._wrote(name, key, outcome)
        return "compare-and-set" if isinstance(outcome, Written) else "compare-and-set, conflict"

    def _delete(self) -> str:
        name, key = self._pick()
        self._wrote(name, key, operations.delete(self._view, name, key))
        return "delete"

    def _touch(self) -> str:
        name, key = self._pick()
        operations.touch(self._view, name, key, ttl=self._random.choice((0, 0.01, 3)))
        return "touch"

    def _append(self) -> str:
        name, key = self._pick()
        entry = self._read(name, key)
        if entry is not None and len(entry[VALUE]) < LARGEST // 2:
            # Between the two the key may go; what is appended is a value by itself then.
            condition = Condition.version(entry[VERSION])
            operations.append(self._view, name, key, b"more", condition=condition)
        return "append"

    def _increment(self) -> str:
        key = f"counter-{self._random.randrange(COUNTERS)}"
        outcome = operations.incr(self._view, "counters", key)
        assert isinstance(outcome, operations.Counted)
        self.increments[key] += 1
        self._note("counters", key, outcome.version)
        return "increment"

    def _transfer(self) -> str:
        accounts = self._soak.store.namespace("accounts")
        one, other = (f"account-{n}" for n in self._random.sample(range(ACCOUNTS), 2))
        first, second = accounts.read(one), accounts.read(other)
        if first is None or second is None:
            raise Wrong(f"{one} or {other} is gone")
        amount = self._random.randrange(1 + int(first[VALUE]))
        outcome = accounts.transaction(
            {
                one: Put(b"%d" % (int(first[VALUE]) - amount)),
                other: Put(b"%d" % (int(second[VALUE]) + amount)),
            },
            {one: Condition.version(first[VERSION]), other: Condition.version(second[VERSION])},
        )
        return "transfer, refused" if isinstance(outcome, Refused) else "transfer"

    def _write_several(self) -> str:
        namespace = self._soak.store.namespace(self._random.choice(MIXED))
        keys = [self._key() for _ in range(self._random.randrange(1, 6))]
        wishes = {
            key: self._random.choice((None, Put(self._value(key)), Put(self._value(key), 0.1)))
            for key in keys
        }
        outcome = namespace.transaction(wishes)
        if isinstance(outcome, Refused):
            raise Wrong(f"a transaction without conditions was refused: {outcome.conflicts}")
        for key, each in outcome.items():
            self._wrote(namespace.name, key, each)
        return "transaction"

    def _pick(self) -> tuple[str, str]:
        return self._random.choice((*MIXED, *MIXED, *PASSING)), self._key()

    def _key(self) -> str:
        # The square makes some keys far more frequent than others.
        return f"key-{int(self._random.random() ** 2 * KEYS)}"

    def _value(self, key: str) -> bytes:
        size = int(2 ** (self._random.random() * 15))
        return b"%s:%s" % (key.encode(), self._blob[:size])

    def _read(self, name: str, key: str) -> Entry[bytes] | None:
        now = self._clock.monotonic()
        entry = operations.get(self._view, name, key)
        if isinstance(entry, Missing):
            return None
        if not entry[VALUE].startswith(key.encode() + b":"):
            raise Wrong(f"{key} of {name} has the value {entry[VALUE][:40]!r}")
        if entry[DEADLINE] and entry[DEADLINE] <= now:
            raise Wrong(f"{key} of {name} was read after its time was up")
        self._note(name, key, entry[VERSION], again=True)
        return entry

    def _wrote(self, name: str, key: str, outcome: Any) -> None:
        if not isinstance(outcome, Conflict | Missing):
            self._note(name, key, outcome.version)

    def _note(self, name: str, key: str, version: int, again: bool = False) -> None:
        before = self._versions.get((name, key), 0)
        if version < before or (version == before and not again):
            raise Wrong(f"{key} of {name} had version {before}, and then {version}")
        self._versions[name, key] = version


def grown(seen: Seen, seconds: float) -> float | None:
    """Return by which share resident memory grew from the first to the second half; None: too few."""
    rss = [size for when, size in seen.rss if when >= WARM_UP * seconds]
    half = len(rss) // 2
    return median(rss[half:]) / median(rss[:half]) - 1 if half else None


def run(seconds: float, threads: int, seed: int) -> dict[str, Any]:
    """Do it all. Returns the figures, and under `wrong` what was."""
    faulthandler.dump_traceback_later(seconds + _HANGS, exit=True)
    soak = Soak(threads, seed)
    took = soak.run(seconds)
    statistics = soak.store.statistics()
    wrong = ["".join(traceback.format_exception(error)).strip() for error in soak.errors]
    if not wrong:
        try:
            soak.settle()
        except (AssertionError, Wrong, CacheServerError) as error:
            wrong.append("".join(traceback.format_exception(error)).strip())
    gc.collect()
    growth = grown(soak.seen, took)
    if growth is not None and growth > GROWTH and took >= JUDGED_FROM:
        wrong.append(f"resident memory grew by {100 * growth:.1f} per cent")
    faulthandler.cancel_dump_traceback_later()
    done: collections.Counter[str] = collections.Counter()
    for worker in soak.workers:
        done.update(worker.done)
    each = statistics.namespaces
    return {
        "benchmark": "soak",
        "machine": inprocess.machine(),
        "settings": {"seconds": seconds, "threads": threads, "seed": seed},
        "seconds": took,
        "operations": dict(done),
        "changes": dict(soak.changes),
        "expirations": sum(one.expirations for one in each),
        "evictions": {
            reason: sum(one.evictions[reason] for one in each)
            for reason in ("memory", "max_bytes", "max_entries")
        },
        "looks": soak.seen.looks,
        "excess": dict(soak.seen.excess),
        "rss": soak.seen.rss,
        "kept": soak.seen.kept,
        "growth": growth,
        "wrong": wrong,
    }


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    took, settings = result["seconds"], result["settings"]
    rows = [
        [kind, f"{count:,}", f"{count / took:,.0f}"]
        for kind, count in sorted(result["operations"].items())
    ]
    total = sum(result["operations"].values())
    rows.append(["all", f"{total:,}", f"{total / took:,.0f}"])
    changes = ", ".join(f"{count} {what}" for what, count in sorted(result["changes"].items()))
    evictions = ", ".join(f"{count:,} by {why}" for why, count in result["evictions"].items())
    excess = ", ".join(f"{limit} {most:+,}" for limit, most in result["excess"].items())
    rss = [size for _, size in result["rss"]] or [0]
    growth = "not known" if result["growth"] is None else f"{100 * result['growth']:+.1f} per cent"
    return "\n\n".join(
        [
            inprocess.describe(result["machine"]),
            f"{settings['threads']} threads for {took:.0f} s, seed {settings['seed']}.",
            inprocess.table(["operation", "times", "a second"], rows),
            f"- changes: {changes}\n"
            f"- in the namespaces that are left: {result['expirations']:,} expired, evicted {evictions}\n"
            f"- {result['looks']:,} looks at the limits; the nearest to each (above it: +): {excess}\n"
            f"- resident memory: {rss[0] / 1e6:.0f} MB, at most {max(rss) / 1e6:.0f}, at the end "
            f"{rss[-1] / 1e6:.0f}; second half against first: {growth}",
            "\n".join(f"WRONG: {each}" for each in result["wrong"]) or "All was right.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Everything at once, for minutes.")
    parser.add_argument("--seconds", type=float, help="default: 300, or 5 with --quick")
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args(arguments)
    if not Path("/proc/self/smaps_rollup").exists():
        parser.error("this reads /proc/PID/smaps_rollup, which only Linux has")
    result = run(given.seconds or (5.0 if given.quick else 300.0), given.threads, given.seed)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'soak.json', result)}")
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
