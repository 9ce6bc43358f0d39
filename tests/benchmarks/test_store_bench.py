"""The benchmarks of the store, of memory and of the start do what they say, in small."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import inprocess, inprocess_load, inprocess_subjects, memory, peers, startup, store
from benchmarks.inprocess_load import (
    OWN_GET,
    SHARED_MIX,
    WORKLOADS,
    Workload,
    measure,
    write_script,
)
from benchmarks.inprocess_subjects import PRIVATE, STORE, STRIPED, SUBJECTS, Subject, Way
from cacheserver import Store

PRESENT, LEFT_OUT = inprocess_subjects.choose()
HALF = next(workload for workload in WORKLOADS if workload.name == "50/50, uniform")
KEYS = 50
LENGTH = 200

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc"
)
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
by_name = pytest.mark.parametrize("subject", PRESENT, ids=lambda subject: subject.name)


def small(subject: Subject, workload: Workload, threads: int = 2, **options: Any) -> Any:
    """Measure for an instant."""
    return measure(subject, workload, threads, seconds=0.002, keys=KEYS, length=LENGTH, **options)


class Counting:
    """Counts what goes through a subject's ways in."""

    def __init__(self, subject: Subject) -> None:
        self._enter = subject.enter
        self._lock = threading.Lock()
        self.read: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self.subject = replace(subject, enter=self.enter)

    def enter(self, state: Any) -> Way:
        way = self._enter(state)

        def get(key: str) -> Any:
            with self._lock:
                self.read[key] += 1
            return way.get(key)

        def put(key: str, value: bytes) -> None:
            with self._lock:
                self.written[key] += 1
            way.put(key, value)

        return Way(get, put)


class TestWorkload:
    """What a worker does is what the workload says."""

    @pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
    def test_share_of_writes_is_exact(self, workload: Workload) -> None:
        """So many of the operations write, in every script."""
        script = write_script(workload, KEYS, worker=1, seed=0, length=LENGTH)
        assert len(script.keys) == len(script.values) == LENGTH
        assert script.writes == round(LENGTH * workload.write_share)

    def test_keys_and_values_are_objects_of_their_own(self) -> None:
        """No two places share a key's or a value's object: that would be a shared reference count."""
        script = write_script(HALF, 1, worker=0, seed=0, length=LENGTH)
        assert len(set(script.keys)) == 1
        assert len(set(map(id, script.keys))) == LENGTH
        assert len({value for value in script.values if value is not None}) == script.writes

    def test_own_keys_are_disjoint_and_others_shared(self) -> None:
        """Workers with keys of their own have none in common; those that share draw from the same."""
        first, second = (
            set(inprocess_load.key_numbers(OWN_GET, KEYS, worker)) for worker in (0, 1)
        )
        assert not first & second
        assert len(first) == len(second) == KEYS
        assert inprocess_load.key_numbers(HALF, KEYS, 0) == inprocess_load.key_numbers(
            HALF, KEYS, 1
        )

    def test_zipf_follows_its_exponent(self) -> None:
        """The most frequent of 50 keys gets the share that theory gives it, about."""
        workload = Workload("Zipf", zipf=0.99)
        script = write_script(workload, KEYS, worker=0, seed=0, length=20_000)
        share = Counter(script.keys)[inprocess_load.key(0)] / 20_000
        expected = 1 / sum(rank**-0.99 for rank in range(1, KEYS + 1))
        assert share == pytest.approx(expected, rel=0.1)

    def test_one_hot_key(self) -> None:
        """All workers ask for the same key."""
        hot = Workload("hot", hot=True)
        drawn = {key for worker in (0, 1) for key in write_script(hot, KEYS, worker, 0, 99).keys}
        assert drawn == {inprocess_load.key(0)}


class TestMeasure:
    """A measurement did what it reports."""

    @by_name
    def test_counts_its_writes(self, subject: Subject) -> None:
        """After a 50/50 run the subject was written so often as is reported, and the fill."""
        counting = Counting(subject)
        found = small(counting.subject, HALF)
        fill = KEYS * (2 if subject.private else 1)
        assert found.writes > 0
        assert counting.written.total() == found.writes + fill
        assert found.operations_per_second > 0

    @by_name
    def test_values_arrive(self, subject: Subject) -> None:
        """After a 50/50 run each key has a value that a worker wrote under this very key."""
        if subject.private:
            pytest.skip("each thread has a dict of its own, which ends with it")
        possible: dict[str, set[bytes]] = {}
        for worker in (0, 1):
            script = write_script(HALF, KEYS, worker, 0, LENGTH)
            for key, value in zip(script.keys, script.values, strict=True):
                if value is not None:
                    possible.setdefault(key, set()).add(value)

        def check(way: Way) -> None:
            for key, values in possible.items():
                assert subject.value(way.get(key)) in values

        assert len(possible) == KEYS
        small(subject, HALF, check=check)

    def test_store_counts_the_same(self) -> None:
        """The store's own statistics agree with what the benchmark reports."""
        made: list[Store] = []

        def make(keys: int) -> Store:
            made.append(STORE.make(keys))
            return made[-1]

        found = small(replace(STORE, make=make), HALF)
        figures = made[0].statistics().namespaces[0]
        assert figures.writes == found.writes + KEYS
        assert figures.misses == 0

    def test_readers_write_nothing(self) -> None:
        """A run of GETs writes the fill alone, each thread its own keys."""
        counting = Counting(STRIPED)
        found = small(counting.subject, OWN_GET)
        assert found.writes == 0
        assert set(counting.written.values()) == {1}
        assert len(counting.written) == 2 * KEYS
        assert set(counting.read) <= set(counting.written)

    def test_private_dicts_share_nothing(self) -> None:
        """The ceiling gives each thread a dict of its own."""
        assert PRIVATE.private
        ways = [PRIVATE.enter(PRIVATE.make(KEYS)) for _ in range(2)]
        ways[0].put("key", b"value")
        with pytest.raises(KeyError):
            ways[1].get("key")

    def test_a_miss_fails(self) -> None:
        """A subject that loses its keys gets no figures."""
        subject = replace(
            STRIPED, enter=lambda state: Way(state.view().read, lambda key, value: None)
        )
        with pytest.raises(TypeError):
            small(subject, OWN_GET)

    def test_a_thread_that_fails_fails_the_measurement(self) -> None:
        """One worker's exception ends all, and comes out."""
        turns = iter(range(9))

        def enter(state: Any) -> Way:
            if next(turns) == 2:
                raise LookupError("no way in")
            return STRIPED.enter(state)

        with pytest.raises((LookupError, threading.BrokenBarrierError)):
            small(replace(STRIPED, enter=enter), HALF)

    @pytest.mark.parametrize("name", inprocess_load.FLOORS)
    def test_floors(self, name: str) -> None:
        """The loops alone are measured too."""
        assert inprocess_load.measure_floor(name, 2, seconds=0.001, keys=KEYS) > 0


class TestChoice:
    """What cannot be compared is named, with its reason."""

    def test_absent(self) -> None:
        """A module that is not there."""
        absent = replace(STRIPED, name="ghost", module="no_such_module_as_this")
        assert inprocess_subjects.choose((absent, STRIPED)) == (
            [STRIPED],
            {"ghost": "not installed"},
        )

    def test_broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A module whose import fails."""
        self.module("raise OSError('bad build')", tmp_path, monkeypatch)
        assert (
            inprocess_subjects.why_left_out("peer_of_test")
            == "its import fails: OSError: bad build"
        )

    def test_gil(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A module that turns the GIL on is left out, where that changes anything."""
        self.module("import sys; sys._is_gil_enabled = lambda: True", tmp_path, monkeypatch)
        free_threaded = inprocess.machine()["free_threaded_build"]
        expected = "its import turns the GIL on" if free_threaded else None
        assert inprocess_subjects.why_left_out("peer_of_test") == expected

    def test_every_subject_is_present_or_named(self) -> None:
        """None is dropped silently."""
        found = [*(subject.name for subject in PRESENT), *LEFT_OUT]
        assert sorted(found) == sorted(subject.name for subject in SUBJECTS)

    @staticmethod
    def module(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "peer_of_test.py").write_text(text, encoding="ascii")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder))


def sampled(**medians: tuple[float, float]) -> store.Samples:
    """Three rounds of `GET, own keys` and `90/10, uniform`: the median as given, others beside it."""
    return {
        (workload, subject.replace("_", " "), threads): [0.5 * median, median, 4 * median]
        for subject, pair in medians.items()
        for threads, median in zip((1, 2), pair, strict=True)
        for workload in (OWN_GET.name, SHARED_MIX.name)
    }


class TestSummary:
    """Ratios are those of the medians."""

    def test_scales(self) -> None:
        """Scale is median over median, and is divided by the ceiling's."""
        rows = store.summarise(sampled(private_dicts=(10.0, 16.0), StripedDict=(2.0, 2.4)))
        row = next(row for row in rows if (row["subject"], row["threads"]) == ("StripedDict", 2))
        assert row["operations_per_second"] == {
            "median": 2.4,
            "min": 1.2,
            "max": 9.6,
            "samples": [1.2, 2.4, 9.6],
        }
        assert row["scale"] == pytest.approx(1.2)
        assert row["scale_of_ceiling"] == pytest.approx(0.75)

    def test_targets(self) -> None:
        """The targets compare ours with the ceiling and with a dict behind one lock."""
        samples = sampled(private_dicts=(10.0, 20.0), StripedDict=(2.0, 3.9))
        samples |= {(SHARED_MIX.name, "dict, one lock", 2): [1.0, 2.0, 9.0]}
        found = {each["name"]: each for each in store.targets(store.summarise(samples))}
        scale = found["StripedDict: GET, own keys, scale to 2 threads, over the ceiling's"]
        over = found["StripedDict: 90/10, uniform, 2 threads, over dict, one lock"]
        missing = found["Store: 90/10, uniform, 2 threads, over dict, one lock"]
        assert (scale["value"], scale["met"], scale["dream_met"]) == (
            pytest.approx(0.975),
            True,
            False,
        )
        assert (over["value"], over["met"]) == (pytest.approx(1.95), True)
        assert over["best_rounds"] == pytest.approx(15.6 / 9)
        assert (missing["value"], missing["met"]) == (None, None)

    def test_target_at_most(self) -> None:
        """A target from above is met from below."""
        judged = inprocess.target("size", 2.0, 2.5, 1.5, at_most=True)
        assert (judged["met"], judged["dream_met"]) == (True, False)
        assert "at most 2.5" in inprocess.target_table([judged])

    @pytest.mark.parametrize(
        ("cpus", "counts"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6))]
    )
    def test_default_threads(self, cpus: int, counts: tuple[int, ...]) -> None:
        """Powers of two, and all CPUs."""
        assert store.default_threads(cpus) == counts

    def test_thread_counts(self) -> None:
        """One thread is always measured, since the others are compared with it."""
        assert store.thread_counts("4,2") == (1, 2, 4)
        with pytest.raises(ValueError):
            store.thread_counts("0")


def test_store_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program prints its tables, names what it left out and writes one JSON."""
    ghost = replace(STRIPED, name="ghost", module="no_such_module_as_this")
    chosen = inprocess_subjects.choose((PRIVATE, STRIPED, ghost))
    monkeypatch.setattr(store, "choose", lambda: chosen)
    monkeypatch.setattr(store, "WORKLOADS", (OWN_GET, SHARED_MIX))
    flags = ["--quick", "--threads", "1,2", "--seconds", "0.002", "--keys", "64", "--no-plot"]
    assert store.main([*flags, "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "store.json").read_text(encoding="utf-8"))
    assert result["settings"]["threads"] == [1, 2]
    assert result["left_out"] == {"ghost": "not installed"}
    assert 0 < result["quietness"] <= 1
    assert {(row["workload"], row["subject"], row["threads"]) for row in result["rows"]} == {
        (workload, subject, threads)
        for threads in (1, 2)
        for workload, names in {
            store.FLOOR: [*inprocess_load.FLOORS],
            OWN_GET.name: [PRIVATE.name, STRIPED.name],
            SHARED_MIX.name: [PRIVATE.name, STRIPED.name],
        }.items()
        for subject in names
    }
    printed = capsys.readouterr().out
    assert "left out: ghost: not installed" in printed
    assert "| StripedDict " in printed


def test_store_plot(tmp_path: Path) -> None:
    """The curves are drawn as PNG and SVG."""
    pytest.importorskip("matplotlib")
    from benchmarks import inprocess_plot

    settings = store.Settings(rounds=1, seconds=0.001, threads=(1, 2), keys=16)
    result = store.run([PRIVATE, STRIPED], settings, {})
    assert [path.name for path in inprocess_plot.draw(result, tmp_path)] == [
        "store.png",
        "store.svg",
    ]
    assert (tmp_path / "store.svg").stat().st_size > 1000


class TestMemory:
    """Bytes an entry."""

    def test_ratios(self) -> None:
        """Growth over the number of entries, and that over Redis's."""
        rows = memory.summarise({"redis": steps(100), memory.OURS: steps(150)}, keys=100)
        ours = rows[1]
        assert ours["filled"] == pytest.approx(150)
        assert ours["rewritten"] == pytest.approx(300)
        assert ours["deleted"] == pytest.approx(75)
        assert ours["over_redis"] == pytest.approx(1.5)
        (judged,) = memory.targets(rows)
        assert (judged["met"], judged["dream_met"]) == (True, False)

    def test_no_redis(self) -> None:
        """Without Redis there are no ratios, and the target was not measured."""
        rows = memory.summarise({memory.OURS: steps(150)}, keys=100)
        assert rows[0]["over_redis"] is None
        assert memory.targets(rows)[0]["met"] is None

    @needs_proc
    @needs_compiler
    def test_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Our server and a dict are filled, rewritten and emptied; a server that lacks is named."""
        ghost = replace(memory._server("redis"), program="no-such-program")
        others = [subject for subject in peers.SUBJECTS if subject.name != "redis"]
        monkeypatch.setattr(peers, "SUBJECTS", (*others, ghost))
        result = memory.run(3000, (memory.OURS, "redis"), ("dict in process",), settle=0.2)
        assert [row["subject"] for row in result["rows"]] == [memory.OURS, "dict in process"]
        assert "no-such-program is not installed" in result["left_out"]["redis"]
        ours = result["rows"][0]
        assert 16 + 64 < ours["accounted"] < 1000
        assert ours["filled"] > 16 + 64
        assert "| dict in process " in memory.report(result)

    @needs_proc
    def test_inside(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The store in process goes through the same steps."""
        assert memory.main(["--inside", "Store in process", "--keys", "500"]) == 0
        steps = json.loads(capsys.readouterr().out)
        assert list(steps) == ["empty", "filled", "accounted", "rewritten", "deleted"]
        assert steps["accounted"] > 500 * (16 + 64)

    @needs_compiler
    def test_a_failing_fill_fails(self, tmp_path: Path) -> None:
        """Figures of a server that could not be filled are none."""
        generator = memory.compile_generator(tmp_path)
        with pytest.raises(RuntimeError, match="the fill failed"):
            memory.fill(generator, "http", 1, 10)


def steps(size: int) -> dict[str, Any]:
    """What 100 entries of so many bytes would leave in each step, with 1,000 bytes before."""

    def sizes(factor: float) -> dict[str, int]:
        return dict.fromkeys(("rss", "pss", "private", "peak"), 1000 + int(100 * size * factor))

    factors = {"empty": 0, "filled": 1, "rewritten": 2, "deleted": 0.5}
    return {step: sizes(factor) for step, factor in factors.items()}


class TestStartup:
    """Seconds to ready."""

    def test_run(self) -> None:
        """Our server and Python start; a program that lacks is named."""
        known = {subject.name: subject for subject in startup.subjects()}
        bare = known[startup.BARE]
        ghost = replace(bare, name="ghost", program="no-such-program")
        result = startup.run(1, [known[startup.OURS], bare, ghost], import_runs=1)
        ours, python = result["rows"]
        assert result["left_out"] == {"ghost": "no-such-program is not installed"}
        assert ours["over_ours"] == 1
        assert 0 < python["seconds"]["median"] < ours["seconds"]["median"]
        assert result["imports"]["packages"]["cacheserver"]["own"] > 0
        assert "| python -c pass " in startup.report(result)

    def test_one_that_ends_fails(self) -> None:
        """A start that comes to nothing gives no figure, but what was said."""
        broken = startup.Subject(
            "broken",
            lambda port, folder: [sys.executable, "-c", "raise SystemExit('no room')"],
            startup.accepts,
        )
        with pytest.raises(RuntimeError, match="no room"):
            startup.seconds_to_ready(broken)

    def test_ratios(self) -> None:
        """Medians are compared with our warm start's."""
        rows = startup.summarise({startup.OURS: [1.0, 2.0, 9.0], "other": [1.0, 1.0, 5.0]})
        assert [row["over_ours"] for row in rows] == [1, 0.5]

    def test_imports(self) -> None:
        """Own time adds up by package, the standard library as one, with what came along."""
        text = (
            "import time: self [us] | cumulative | imported package\n"
            "import time:       100 |        100 |       email.errors\n"
            "import time:       200 |        300 |     email\n"
            "import time:       400 |        400 |     peer.inner\n"
            "import time:       500 |       1200 |   peer\n"
        )
        found = startup.summarise_imports([startup.parse_import_times(text)])
        assert found["modules"] == 4
        assert found["total"] == pytest.approx(0.0012)
        assert found["packages"] == {
            "peer": {"own": pytest.approx(0.0009), "with_others": pytest.approx(0.0012)},
            "standard library": {"own": pytest.approx(0.0003), "with_others": None},
        }
        assert next(iter(found["slowest"])) == "peer"
