"""The HTTP benchmark: a short real run, and what it makes of runs that went wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from benchmarks import copies, generator, http, measure, peers, report
from benchmarks.cases import CASES, QUICK, TARGETS, TOKEN, Case
from benchmarks.generator import CompilerError, Generator, Run, build, find_compiler, judge
from benchmarks.inprocess import spread
from benchmarks.measure import Benchmark, Plan, ratios
from benchmarks.peers import OURS, SUBJECTS, Running

needs_compiler = pytest.mark.skipif(
    find_compiler() is None or sys.platform != "linux",
    reason="the load generator needs a C compiler and Linux",
)

PLAN = Plan(rounds=3, seconds=1.0, warmup=0.0, latency_seconds=1.0, quick=True)


def printed(**changes: Any) -> dict[str, Any]:
    """What the generator prints after a good run, with changes."""
    whole = {
        "requests": 1000,
        "errors": 0,
        "error_examples": [],
        "rate": 500.0,
        "intended_rate": None,
        "seconds": 2.0,
        "latency_us": {"p50": 1.0, "p99": 2.0, "p99.9": 3.0},
        "generator_lag_us": {"p99": 1.0},
        "generator_cpu_seconds": 1.0,
        "server_cpu_seconds": 0.01,
    }
    return {**whole, **changes}


def subject(name: str) -> peers.Subject:
    return next(each for each in SUBJECTS if each.name == name)


class ScriptedGenerator(Generator):
    """Gives each subject's server CPU seconds of a run, one run after the other."""

    def __init__(self, seconds: dict[str, list[float]], **changes: Any) -> None:
        super().__init__(Path("none"))
        self._seconds = {name: iter(each) for name, each in seconds.items()}
        self._changes = changes
        self.order: list[str] = []

    def run(self, server: Running, case: Case, **_: Any) -> Run:
        name = server.subject.name + (" beside" if case.title == "PUT" else "")
        self.order.append(name)
        cpu = next(self._seconds[name])
        errors = {"errors": 1, "error_examples": ["no answer"]} if cpu < 0 else {}
        return judge(0, json.dumps(printed(server_cpu_seconds=cpu, **errors, **self._changes)), "")


def measured(
    seconds: dict[str, list[float]], case: Case = CASES[0], **changes: Any
) -> tuple[dict[str, Any], dict[str, list[str]], list[str]]:
    """The figures of a case whose runs went as scripted, the invalid ones, and the order."""
    scripted = ScriptedGenerator(seconds, **changes)
    names = [name for name in seconds if not name.endswith(" beside")]
    servers = [Running(subject(name), 1, process=None) for name in names]  # type: ignore[arg-type]
    invalid: dict[str, list[str]] = {name: [] for name in names}
    benchmark = Benchmark(scripted, PLAN, Path("none"))
    found = benchmark._cost(case, servers, invalid)
    return found, invalid, scripted.order


def test_figures_are_medians_and_ratios_are_of_medians() -> None:
    """CPU a request is server CPU over answered requests; one slow round moves no median."""
    found, _, _ = measured({"cacheserver": [0.01, 0.9, 0.02], "redis": [0.008, 0.01, 0.02]})
    ours, theirs = (found["results"][name]["cpu_us"] for name in ("cacheserver", "redis"))
    assert [ours[part] for part in ("median", "min", "max")] == pytest.approx([20, 10, 900])
    assert theirs["median"] == pytest.approx(10)
    assert found["ratios"]["cacheserver"]["redis"]["cpu_us"] == pytest.approx(2)
    assert found["ratios"]["cacheserver"]["redis"]["rate"] == 1


def test_rounds_alternate_and_the_first_place_goes_round() -> None:
    """Each round measures every subject once, and each subject is first in its turn."""
    names = ["cacheserver", "redis", "echo"]
    _, _, order = measured({name: [0.1] * 3 for name in names})
    rounds = [order[start : start + 3] for start in (0, 3, 6)]
    assert [each[0] for each in rounds] == names
    assert all(sorted(each) == sorted(names) for each in rounds)


COMPARED = next(case for case in CASES if case.name == "cas")


def test_what_our_own_load_is_compared_with_is_measured_in_turns_with_it() -> None:
    """Each round has the case's load and the plain one, and the ratio is of their medians."""
    found, _, order = measured(
        {
            "cacheserver": [0.03, 0.9, 0.02],
            "redis": [0.01] * 3,
            "cacheserver beside": [0.02, 0.01, 0.015],
        },
        COMPARED,
    )
    plain = found["plain"]
    assert list(plain) == ["cacheserver"]
    assert plain["cacheserver"]["cpu_us"]["median"] == pytest.approx(15)
    assert plain["cacheserver"]["over"] == pytest.approx(2)
    assert set(found["results"]) == {"cacheserver", "redis"}
    assert found["stand_ins"] == {"redis": "put"}
    assert sorted(order[:3]) == sorted(["cacheserver", "cacheserver beside", "redis"])


def test_a_failing_run_of_either_load_leaves_no_ratio_of_the_two() -> None:
    """A wrong answer to the plain load is told, and nothing is compared with it."""
    found, invalid, _ = measured(
        {"cacheserver": [0.1] * 3, "cacheserver beside": [0.1, -1, 0.1]}, COMPARED
    )
    assert list(found["results"]) == ["cacheserver"]
    assert found["plain"] == {}
    assert invalid["cacheserver"] == ["1 wrong or missing answers: no answer"]


def test_the_plain_load_differs_in_what_is_compared_alone() -> None:
    """It has the case's keys, connections, sizes and pipeline."""
    for case in (case for case in CASES if case.beside):
        plain = case.plain
        compared = ("operation", "changing_header", "changing_length", "ttl")
        assert [getattr(plain, name) for name in compared] == [case.beside, False, False, 0]
        assert any(getattr(plain, name) != getattr(case, name) for name in compared)
        changed = ("operation", "title", "changing_header", "changing_length", "ttl", "beside")
        assert plain == dataclasses.replace(
            case, **{name: getattr(plain, name) for name in changed}
        )


def test_a_failing_run_takes_all_figures_of_its_subject_away() -> None:
    """One run with a wrong answer is told, and not averaged in with the good ones."""
    found, invalid, _ = measured({"cacheserver": [0.1, 0.1, 0.1], "redis": [0.1, -1, 0.1]})
    assert list(found["results"]) == ["cacheserver"]
    assert found["ratios"] == {"cacheserver": {}}
    assert invalid["redis"] == ["1 wrong or missing answers: no answer"]


@pytest.mark.parametrize(
    ("status", "output", "words"),
    [
        (3, json.dumps(printed(errors=2, error_examples=["status 500"])), "status 500"),
        (3, json.dumps(printed()), "status 3"),
        (1, "", "cannot connect"),
        (0, "{", "status 0"),
        (0, json.dumps(printed(requests=0)), "no request"),
    ],
)
def test_runs_that_say_nothing_are_invalid(status: int, output: str, words: str) -> None:
    """Wrong answers, a bad exit status, no JSON and no answers all make a run invalid."""
    assert words in (judge(status, output, "cannot connect").invalid or "")


def test_a_good_run_is_valid() -> None:
    """Figures come from the report alone."""
    run = judge(0, json.dumps(printed()), "")
    assert run.invalid is None
    assert [run.rate, run.cpu_us, run.generator_share] == pytest.approx([500, 10, 0.5])
    assert not run.fell_behind


def test_a_run_below_its_constant_rate_fell_behind() -> None:
    """Percentiles of a server that could not keep up are not those at that rate."""
    assert Run(printed(intended_rate=600.0)).fell_behind
    assert not Run(printed(intended_rate=501.0)).fell_behind


def test_targets_are_held_against_the_ratio_of_medians() -> None:
    """A target is met at its bound, not above it, and unmeasured where a figure is missing."""
    wanted = TARGETS[0]
    assert wanted.peer is not None
    peer = wanted.peer

    def found(ours: float) -> list[dict[str, Any]]:
        results = {
            "cacheserver": {"cpu_us": spread([ours]), "rate": spread([1.0])},
            peer: {"cpu_us": spread([100.0]), "rate": spread([1.0])},
        }
        case = {"is_latency": False, "results": results, "ratios": ratios(results)}
        return [
            target
            for target in report.judge_targets({wanted.case: case})
            if target["must"] == wanted.must
        ]

    at_bound, other_threads = found(100 * wanted.must)
    assert (at_bound["value"], at_bound["met"], at_bound["dream_met"]) == (wanted.must, True, False)
    assert other_threads["value"] is other_threads["met"] is None
    assert not found(100 * wanted.must + 1)[0]["met"]
    assert found(100 * wanted.dream)[0]["dream_met"]


def test_targets_against_our_own_load_are_held_against_its_ratio() -> None:
    """Such a target is judged by what was measured in turns, and unmeasured where that is missing."""
    wanted = next(target for target in TARGETS if target.case == "cas")

    def found(over: float) -> list[dict[str, Any]]:
        case = {"is_latency": False, "results": {}, "plain": {"cacheserver": {"over": over}}}
        return report.judge_targets({"cas": case})

    at_bound, other_threads = found(wanted.must)
    assert (at_bound["value"], at_bound["met"], at_bound["dream_met"]) == (wanted.must, True, False)
    assert "against our own PUT" in at_bound["name"]
    assert other_threads["met"] is None
    assert not found(wanted.must + 0.01)[0]["met"]


def test_names_fit_together() -> None:
    """Cases, targets, smoke run and subjects name each other rightly, and no name is used twice."""
    cases, subjects = [case.name for case in CASES], [each.name for each in SUBJECTS]
    assert len(set(cases)) == len(cases)
    assert len(set(subjects)) == len(subjects)
    assert {*QUICK, *(target.case for target in TARGETS)} <= set(cases)
    peers_wanted = {target.peer for target in TARGETS if target.peer}
    assert {*OURS, *peers_wanted, *(name for t in TARGETS for name in t.ours)} <= set(subjects)
    by_name = {case.name: case for case in CASES}
    for target in TARGETS:
        compared = (*target.ours, *([target.peer] if target.peer else []))
        assert all(subject(name).can(by_name[target.case]) for name in compared)
        assert target.peer or by_name[target.case].beside


def test_the_server_with_a_token_is_for_the_cases_that_name_it() -> None:
    """Elsewhere it would be one more server that tells nothing new."""
    found = {case.name for case in CASES if subject(TOKEN).can(case)}
    assert found == {case.name for case in CASES if case.subjects and TOKEN in case.subjects}
    assert found


def test_a_peer_that_is_not_installed_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It stands in the JSON with what to do about it, and nothing is measured of it."""
    absent = dataclasses.replace(subject("redis"), program="no-such-program")
    benchmark = Benchmark(ScriptedGenerator({}), PLAN, Path("none"))
    result = http.measure_all(benchmark, [], [absent], PLAN)
    assert result["missing"] == {
        "redis": "no-such-program is not installed: scripts/peers installs it"
    }
    assert result["subjects"] == {}
    assert "left out: Redis" in capsys.readouterr().out


def test_without_a_compiler_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There is one sentence instead of a traceback."""
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match="scripts/peers"):
        build(tmp_path)


@needs_compiler
def test_a_subject_that_gives_wrong_answers_fails_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that forgets what was stored has no figures, and the exit status says so."""
    answer = tmp_path / "answer"
    answer.write_bytes(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    forgetful = dataclasses.replace(
        subject("echo"),
        name="uvicorn",
        keeps=True,
        command=lambda python, place: [
            *(python, "-m", "benchmarks.echo"),
            *("--port", str(place.port), "--answer", str(answer)),
        ],
    )
    monkeypatch.setattr(http, "SUBJECTS", (forgetful,))
    status = http.main(["--quick", "--only", "get", "--output", str(tmp_path)])
    case = json.loads((tmp_path / "http.json").read_text(encoding="utf-8"))["cases"]["get"]
    assert status == 1
    assert case["results"] == {}
    assert "wrong or missing answers" in case["invalid"]["uvicorn"][0]


@needs_compiler
def test_a_short_run_measures_our_server_beside_the_floor(tmp_path: Path) -> None:
    """It prints tables and writes a JSON whose ratios are those of its medians."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.http", "--quick", "--output", str(tmp_path)),
            *("--only", "get", "get-pipelined", "--subjects", "cacheserver", "echo"),
        ],
        cwd=peers.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "http.json").read_text(encoding="utf-8"))
    assert set(result["subjects"]) == {"cacheserver", "echo"}
    assert result["missing"] == {}
    assert result["machine"]["cpus"] > 0
    assert set(result["cases"]) == {"get", "get-pipelined"}
    for case in result["cases"].values():
        assert case["invalid"] == {}
        medians = {name: each["cpu_us"]["median"] for name, each in case["results"].items()}
        assert set(medians) == {"cacheserver", "echo"}
        ratio = case["ratios"]["cacheserver"]["echo"]["cpu_us"]
        assert ratio == pytest.approx(medians["cacheserver"] / medians["echo"])
        assert all(each["requests"] > 0 for each in case["results"].values())
    assert any(target["value"] and "uvloop echo" in target["name"] for target in result["targets"])
    assert "## get: GET hit, 64 B, 32 connections" in done.stdout


@pytest.mark.timeout(300)
def test_our_server_of_another_revision_is_measured_beside_ours(tmp_path: Path) -> None:
    """It runs from its own package, and is in every case that ours is in."""
    package = copies.copy_here(tmp_path)
    copies.compile_copy(tmp_path)
    with (package / "__init__.py").open("a", encoding="utf-8") as init:
        init.write('\n__version__ = "0.0.0+before"\n')
    other = peers.before("then", tmp_path)
    ours = subject("cacheserver")
    assert all(other.can(case) == ours.can(case) for case in CASES)
    with peers.running(other) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Server")) == (200, "cacheserver/0.0.0+before")
        connection.close()


def test_a_revision_that_is_not_there_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is measured, and git's own words are told."""
    monkeypatch.setattr(http, "build", lambda folder: folder)
    assert http.main(["--quick", "--before", "never", "--output", str(tmp_path / "out")]) == 1
    assert "never" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_compiler
def test_the_cases_of_our_own_are_answered_rightly(tmp_path: Path) -> None:
    """Each kind of request that the cases know gets right answers, a token's included."""
    names = ["get-token", "put-token", "put-changing-all", "put-ttl", "cas", "cas-conflict", "incr"]
    status = http.main(
        [
            *("--rounds", "1", "--seconds", "0.05", "--quick", "--output", str(tmp_path)),
            *("--only", *names, "--subjects", "cacheserver", TOKEN),
        ]
    )
    cases = json.loads((tmp_path / "http.json").read_text(encoding="utf-8"))["cases"]
    assert status == 0
    for name in names:
        expected = {"cacheserver", TOKEN} if name.endswith("token") else {"cacheserver"}
        assert set(cases[name]["results"]) == expected
        assert set(cases[name]["plain"]) == ({"cacheserver"} if cases[name]["beside"] else set())


def test_the_server_with_a_token_refuses_who_shows_none() -> None:
    """What is measured with a token is a server that asks for it."""
    with peers.running(subject(TOKEN)) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/v1/kv/bench/k")
        assert connection.getresponse().status == 401
        connection.close()


@needs_compiler
def test_the_floor_gives_as_many_bytes_as_our_server(tmp_path: Path) -> None:
    """What the echo writes is what our server answers to a GET, head and value."""
    benchmark = Benchmark(Generator(Path("none")), PLAN, tmp_path)
    answer = benchmark._real_answer(64).read_bytes()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 64" in head.lower()
    assert body == b"x" * 64


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--seconds", "-1"], ["--only", "nothing"]]
)
def test_arguments_that_mean_nothing_are_refused(arguments: list[str]) -> None:
    """A mistake ends it before anything is started."""
    with pytest.raises(SystemExit) as caught:
        http.main(arguments)
    assert caught.value.code == 2


def test_the_generator_is_given_a_fixed_path_only_where_nothing_is_kept() -> None:
    """Who answers the same to everything isn't asked for values that it can't have."""
    case = CASES[0]
    for name, expected in (("nginx", True), ("cacheserver", False), ("redis", False)):
        server = Running(subject(name), 1, process=None)  # type: ignore[arg-type]
        assert ("--fixed-path" in generator._load(server, case)) is expected


def test_a_smoke_run_has_few_keys() -> None:
    """Its plan cuts the keys of every case and nothing else."""
    for case in CASES:
        cut = PLAN.cut(case)
        assert cut.keys <= measure.QUICK_KEYS
        assert dataclasses.replace(cut, keys=case.keys) == case
