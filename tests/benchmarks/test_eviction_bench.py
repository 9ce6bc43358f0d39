"""The benchmark of eviction measures what it says, in small."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from benchmarks import eviction, eviction_oracle
from benchmarks.eviction_loads import (
    numbered,
    optimal_hits,
    read_trace,
    shifting,
    with_scans,
    zipf,
)


def best_hits(requests: Sequence[int], size: int) -> int:
    """Try every choice there is of what goes."""

    @cache
    def best(at: int, inside: frozenset[int]) -> int:
        if at == len(requests):
            return 0
        key = requests[at]
        if key in inside:
            return 1 + best(at + 1, inside)
        if len(inside) < size:
            return best(at + 1, inside | {key})
        return max(best(at + 1, inside - {gone} | {key}) for gone in inside)

    return best(0, frozenset())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_choice_of_victims_hits_more_often_than_beladys(size: int):
    """The optimum is what trying everything finds."""
    chance = random.Random(size)
    for _ in range(30):
        requests = [chance.randrange(7) for _ in range(14)]
        assert optimal_hits(requests, size) == best_hits(requests, size)


def test_the_optimum_of_a_loop_is_known():
    """Of a loop over one key more than there is room for, all but one in so many requests hit."""
    assert optimal_hits([0, 1, 2] * 4, 2) == 5
    assert optimal_hits([0, 1, 2] * 4, 3) == 9
    assert optimal_hits(list(range(9)), 3) == 0


def test_zipfs_requests_are_the_same_every_time():
    """A seed gives one load, another seed another one."""
    assert zipf(0.9, 100, 500) == zipf(0.9, 100, 500)
    assert zipf(0.9, 100, 500, seed=1) != zipf(0.9, 100, 500, seed=2)


@pytest.mark.parametrize("exponent", [0.7, 1.1])
def test_zipfs_keys_are_as_popular_as_their_ranks(exponent: float):
    """The most popular keys come as often as the law says."""
    keys, requests = 50, 40_000
    counts = [count for _, count in Counter(zipf(exponent, keys, requests)).most_common()]
    total = sum(rank**-exponent for rank in range(1, keys + 1))
    for rank in (1, 2, 5, 10):
        assert counts[rank - 1] == pytest.approx(requests * rank**-exponent / total, rel=0.1)


def test_scans_are_of_keys_that_come_once():
    """In between Zipf's requests come runs of keys that nobody asks for again."""
    requests = with_scans(0.9, keys=100, requests=1000, scans=5)
    scanned = [key for key in requests if key >= 100]
    assert scanned == list(range(100, 200))
    assert [key for key in requests if key < 100] == zipf(0.9, 100, 1000)


def test_a_shifting_load_asks_for_other_keys_in_each_phase():
    """The window moves over all keys, and what was popular is not."""
    requests = shifting(0.9, keys=1000, requests=4000, phases=4)
    phases = [requests[start : start + 1000] for start in range(0, 4000, 1000)]
    assert [min(phase) // 100 for phase in phases] == [0, 1, 3, 4]
    assert max(requests) < 1000
    favourites = [Counter(phase).most_common(1)[0][0] for phase in phases]
    assert len(set(favourites)) == 4


@pytest.mark.parametrize("suffix", ["txt", "gz"])
def test_a_trace_is_read_as_text_or_gzip(tmp_path: Path, suffix: str):
    """A key a line, of any kind; marks and empty lines are none."""
    path = tmp_path / f"trace.{suffix}"
    words = "17\nb c\n*\n17\n\n* 4\nx\nb c\n"
    path.write_bytes(gzip.compress(words.encode()) if suffix == "gz" else words.encode())
    assert read_trace(path) == [0, 1, 0, 2, 1]
    assert numbered("abca") == [0, 1, 2, 0]


@pytest.mark.parametrize("policy", eviction.COMPARED)
@pytest.mark.parametrize("stripes", [1, 4])
def test_every_policy_hits_less_than_the_optimum(policy: str, stripes: int):
    """What a StripedDict answers is a share of the requests that no policy could exceed."""
    requests = zipf(0.9, 200, 3000)
    ratio = eviction.hit_ratio(requests, 40, policy, stripes)
    assert 0.3 < ratio <= optimal_hits(requests, 40) / len(requests)


def test_fifo_through_the_dict_is_fifo():
    """The hits are those of a list in order of arrival, to the last one."""
    requests, kept, hits = zipf(0.9, 300, 3000), list[int](), 0
    for key in requests:
        if key in kept:
            hits += 1
        else:
            kept = [*kept[-29:], key]
    assert eviction.hit_ratio(requests, 30, "fifo") == pytest.approx(hits / len(requests))


def row(policy: str, entries: int, ratio: float) -> dict[str, object]:
    return {
        "load": "a",
        "size": 5,
        "policy": policy,
        "entries": entries,
        "hit_ratio": ratio,
    }


@pytest.mark.parametrize(
    ("policy", "entries", "ours", "theirs", "within"),
    [
        ("fifo", 10, 0.5004, 0.5, True),
        ("sieve", 10, 0.498, 0.5, False),
        ("lru", 1000, 0.502, 0.5, False),
        ("lru", 10, 0.502, 0.5, None),
        ("lfu", 10, 0.6, 0.5, True),
        ("lfu", 10, 0.489, 0.5, False),
        ("s3fifo", 10, 0.491, 0.5, True),
        ("s3fifo", 10, 0.491, None, None),
    ],
)
def test_a_policy_is_held_against_its_bound(
    policy: str, entries: int, ours: float, theirs: float | None, within: bool | None
):
    """Exact ones both ways, others from below; nothing where there is nothing to compare with."""
    judged = eviction.judge([row(policy, entries, ours)], {("a", 5, policy): theirs})
    assert [each["within"] for each in judged] == [within]


def test_without_an_oracle_nothing_is_judged(tmp_path: Path):
    """It says what is missing and how to get it."""
    found, why_not = eviction.ask_oracle(tmp_path / "python", {}, [row("fifo", 10, 0.5)])
    assert found == {}
    assert "provision oracle-tools" in why_not
    assert eviction.judge([row("fifo", 10, 0.5)], found) == []


def test_an_oracle_that_fails_is_not_hidden():
    """An interpreter without libcachesim gives a reason and no figures."""
    found, why_not = eviction.ask_oracle(Path(sys.executable), {"a": [1, 2]}, [row("fifo", 1, 0.5)])
    assert found == {}
    assert "libcachesim" in why_not


def test_the_oracle_counts_hits_and_says_where_nothing_was_let_in():
    """Its answer is a ratio, or null for a cache that stayed empty."""

    class Cache:
        def __init__(self, room: bool) -> None:
            self.seen: set[int] = set()
            self.room = room

        def get(self, request: object) -> bool:
            key = request.obj_id  # type: ignore[attr-defined]
            hit = key in self.seen
            if self.room:
                self.seen.add(key)
            return hit

        def get_n_obj(self) -> int:
            return len(self.seen)

    class Request:
        obj_id = 0

    assert eviction_oracle.hit_ratio(Cache(True), Request(), [0, 1, 0, 0]) == 0.5
    assert eviction_oracle.hit_ratio(Cache(False), Request(), [0, 1, 0, 0]) is None


def test_memory_of_a_policy_is_counted():
    """More entries take more, a policy with ghosts or a sketch more than one without."""
    sizes = {
        name: sum(map(eviction.bytes_of, eviction.filled(name, 2000)))
        for name in ("fifo", "sieve", "s3fifo", "lfu")
    }
    assert sizes["fifo"] < sizes["sieve"] < min(sizes["s3fifo"], sizes["lfu"])
    assert sizes["fifo"] > 2000 * 17


def test_a_small_run_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Loads, a trace, stripes and costs are in the table and in the JSON; the status is 0."""
    monkeypatch.setattr(eviction, "QUICK", eviction.Scale(keys=100, requests=400, entries=200))
    monkeypatch.setattr(eviction, "STRIPES", (1, 4))
    trace = tmp_path / "mine.txt"
    trace.write_text("\n".join(map(str, zipf(0.8, 50, 300))))
    flags = ["--quick", "--no-plot", "--output", str(tmp_path), "--trace", str(trace)]
    status = eviction.main([*flags, "--oracle", str(tmp_path / "none")])
    assert status == 0
    result = json.loads((tmp_path / "eviction.json").read_text())
    assert set(result["loads"]) >= {"Zipf 0.7", "shifting Zipf 0.9", "mine"}
    assert len(result["rows"]) == 6 * 3 * 7
    assert all(0 <= each["hit_ratio"] <= 1 for each in result["rows"])
    words = (tmp_path / "eviction.md").read_text()
    assert words in capsys.readouterr().out + "\n"
    assert "Not compared" in words
    assert "| mine" in words


def test_a_policy_outside_its_bound_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Status 1, and the report names the place."""
    monkeypatch.setattr(eviction, "QUICK", eviction.Scale(keys=60, requests=200, entries=100))
    monkeypatch.setattr(eviction, "STRIPES", (1,))

    def oracle(_python: Path, _loads: object, rows: Sequence[dict[str, object]]):
        judged = [each for each in rows if each["policy"] in eviction.BOUNDS]
        return {(each["load"], each["size"], each["policy"]): 0.99 for each in judged}, ""

    monkeypatch.setattr(eviction, "ask_oracle", oracle)
    assert eviction.main(["--quick", "--no-plot", "--output", str(tmp_path)]) == 1
    assert "OUTSIDE at Zipf 0.7, 1 %" in (tmp_path / "eviction.md").read_text()


def test_it_runs_as_a_program(tmp_path: Path):
    """`python -m benchmarks.eviction --help` tells its flags."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.eviction", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--trace PATH" in done.stdout
    assert "--oracle PYTHON" in done.stdout
