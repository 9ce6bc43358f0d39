"""The load generator: what it counts is what servers did, and what is wrong it reports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import pytest

from tests.support.server import ROOT, RunningServer, running_server, wait_until

COMPILER = shutil.which(os.environ.get("CC") or "cc")

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the generator needs epoll"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
]

type Answer = Callable[[bytes], bytes | None]
"""From a request's head to the bytes to send; None closes the connection."""


class Loadgen:
    """The compiled program."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *map(str, arguments)],
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )

    def report(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        """Run it, check the exit status, and return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@pytest.fixture(scope="module")
def loadgen(tmp_path_factory: pytest.TempPathFactory) -> Loadgen:
    assert COMPILER is not None
    program = tmp_path_factory.mktemp("loadgen") / "loadgen"
    source = ROOT / "benchmarks" / "loadgen.c"
    command = [COMPILER, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Loadgen(program)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--operation get", "--port is missing"),
        ("--port 1", "--operation is missing"),
        ("--port 1 --operation steal", "takes one of fill get miss"),
        ("--port 1 --operation get --connections 0", "whole number from 1"),
        ("--port 1 --operation get --seconds soon", "takes a number"),
        ("--port 1 --operation get --distribution zipf:2.5", "takes a number"),
        ("--port 1 --operation get --keys 1000 --key-size 6", "must be 7 or more"),
        ("--port 1 --operation fill --rate 5", "fill takes no --rate"),
        ("--port 1 --operation cas --protocol resp", "needs --protocol http or memcached"),
        ("--port 1 --operation connect --protocol resp", "needs --protocol http"),
        ("--port 1 --operation cas --keys 3 --connections 4", "at least as many --keys"),
        ("--port 1 --operation incr --keys 3 --connections 4", "at least as many --keys"),
        ("--port 1 --operation cas-conflict --fixed-path /x", "takes no --fixed-path"),
        ("--port 1 --operation put --integers", "only fill takes --integers"),
        ("--port 1 --operation put --ttl 0", "whole number from 1"),
        ("--port 1 --operation get extra", 'what is "extra"?'),
        ("--port 1 --operation get --unknown", "unrecognized option"),
    ],
)
def test_wrong_arguments_are_told(loadgen: Loadgen, arguments: str, message: str) -> None:
    """Wrong arguments end it with status 2 and a line that says what is wrong."""
    done = loadgen.run(*arguments.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_nobody_listens(loadgen: Loadgen) -> None:
    """Where nobody listens it ends with status 1 and says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = loadgen.run("--port", port, "--operation", "get")
    assert done.returncode == 1
    assert "cannot connect" in done.stderr


# Our server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--threads", "2") as running:
        yield running


def metric(server: RunningServer, name: str, *labels: str) -> int:
    """The sum of a metric's samples that have all these labels."""
    with urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if re.match(rf"cacheserver_{name}[{{ ]", line)]
    return sum(int(float(line.split()[-1])) for line in found if all(x in line for x in labels))


def test_a_fill_stores_every_key_once(loadgen: Loadgen, server: RunningServer) -> None:
    """A fill writes each key, none of them twice."""
    report = loadgen.report(
        *("--port", server.port, "--path", "/v1/kv/fill/", "--keys", 777, "--connections", 5),
        *("--operation", "fill", "--pipeline", 3),
    )
    assert report["statuses"] == {"201": 777}
    assert metric(server, "entries", 'namespace="fill"') == 777


@pytest.mark.parametrize(
    ("operation", "method", "status"),
    [
        ("get", "GET", 200),
        ("miss", "GET", 404),
        ("put", "PUT", 204),
        ("conditional-get", "GET", 304),
        ("cas", "PUT", 204),
        ("cas-conflict", "PUT", 412),
        ("incr", "POST", 200),
        ("connect", "GET", 200),
    ],
)
@pytest.mark.parametrize("rate", [[], ["--rate", 500]], ids=["closed", "open"])
def test_operations_are_counted_as_the_server_counts_them(
    loadgen: Loadgen,
    server: RunningServer,
    operation: str,
    method: str,
    status: int,
    rate: list[object],
) -> None:
    """Every operation gets the answers it should, as many as the server says it gave."""
    labels = (f'method="{method}"', f'status="{status}"')
    common = ["--port", server.port, "--keys", 300, "--connections", 4]
    integers = ["--integers"] if operation == "incr" else []
    loadgen.report(*common, "--operation", "fill", *integers)
    before = metric(server, "requests_total", *labels)
    report = loadgen.report(
        *common, "--operation", operation, *rate, "--seconds", 0.3, "--warmup", 0.1
    )
    after = metric(server, "requests_total", *labels)
    scrapes = 1 if (method, status) == ("GET", 200) else 0
    learnt = 300 if operation in {"conditional-get", "cas", "cas-conflict"} else 0
    assert report["errors"] == 0
    assert report["statuses"] == {str(status): report["requests"]}
    counted = report["requests"] + report["requests_outside_window"] - learnt
    assert counted == after - before - scrapes
    if rate:
        assert report["requests"] + report["unsent"] == pytest.approx(150, abs=1)


def test_a_pipeline_mixes_reads_and_writes(loadgen: Loadgen, server: RunningServer) -> None:
    """A mix has its share of writes, and pipelined answers find their requests."""
    common = ["--port", server.port, "--path", "/v1/kv/mix/", "--keys", 100, "--pipeline", 8]
    loadgen.report(*common, "--operation", "fill")
    report = loadgen.report(
        *common, "--operation", "mix", "--write-share", 0.25, "--connections", 3, "--seconds", 0.5
    )
    writes, reads = report["statuses"]["204"], report["statuses"]["200"]
    assert writes + reads == report["requests"]
    assert writes / report["requests"] == pytest.approx(0.25, abs=0.08)


def value(server: RunningServer, path: str) -> tuple[bytes, dict[str, str]]:
    """What the server has there, and the headers it says so with."""
    with urlopen(f"{server.url}{path}") as answer:
        return answer.read(), dict(answer.headers)


def test_what_is_counted_up_is_there(loadgen: Loadgen, server: RunningServer) -> None:
    """Each answered incr has added one to an integer that the fill had stored."""
    common = ["--port", server.port, "--keys", 20, "--connections", 2, "--pipeline", 3]
    loadgen.report(*common, "--path", "/v1/kv/count/", "--operation", "fill", "--integers")
    report = loadgen.report(
        *common, "--path", "/v1/incr/count/", "--operation", "incr", "--seconds", 0.3
    )
    sums = sum(int(value(server, f"/v1/kv/count/key:{key:012d}")[0]) for key in range(20))
    assert sums == report["requests"] + report["requests_outside_window"] > 20


def test_lengths_change_with_each_write(loadgen: Loadgen, server: RunningServer) -> None:
    """Values have from half to one and a half of the size, and a reader that expects so finds them."""
    common = ["--port", server.port, "--path", "/v1/kv/length/", "--keys", 200]
    common += ["--value-size", 20]
    loadgen.report(*common, "--operation", "fill", "--changing-length")
    lengths = {len(value(server, f"/v1/kv/length/key:{key:012d}")[0]) for key in range(200)}
    assert len(lengths) > 10
    assert min(lengths) >= 10
    assert max(lengths) <= 30
    for operation in ("cas", "cas-conflict", "mix", "get"):
        loadgen.report(*common, "--operation", operation, "--changing-length", "--seconds", 0.1)
    report = loadgen.report(*common, "--operation", "get", "--seconds", 0.1, status=3)
    assert report["error_kinds"].keys() == {"length"}


def test_values_with_a_time_to_live(loadgen: Loadgen, server: RunningServer) -> None:
    """What is written with --ttl says that it will live so long."""
    common = ["--port", server.port, "--path", "/v1/kv/ttl/", "--keys", 1, "--operation"]

    def left() -> int:
        _, headers = value(server, "/v1/kv/ttl/key:000000000000")
        told = re.search(r"(?:max-age|ttl)=(\d+)", str(headers))
        return int(told[1]) if told else 0

    loadgen.report(*common, "fill", "--ttl", 600)
    assert 540 <= left() <= 600
    loadgen.report(*common, "put", "--ttl", 60, "--seconds", 0.05)
    assert 1 <= left() <= 60


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_values_of_all_sizes_go_through(loadgen: Loadgen, server: RunningServer, size: int) -> None:
    """What one run stored, another finds as it was, however long."""
    common = ["--port", server.port, "--path", f"/v1/kv/size{size}/", "--value-size", size]
    common += ["--keys", 3, "--connections", 2]
    loadgen.report(*common, "--operation", "fill")
    report = loadgen.report(*common, "--operation", "get", "--seconds", 0.2)
    assert report["bytes_in"] >= report["requests"] * size
    other = loadgen.report(
        *common, "--value-size", size + 1, "--operation", "get", "--seconds", 0.1, status=3
    )
    assert other["error_kinds"].keys() == {"length"}


def test_the_servers_cpu_time_is_taken_over_the_window(
    loadgen: Loadgen, server: RunningServer
) -> None:
    """The window has the length asked for, and the CPU times fit into it."""
    done = loadgen.run(
        *("--port", server.port, "--operation", "miss", "--connections", 4),
        *("--seconds", 0.4, "--warmup", 0.1, "--server-pid", server.process.pid),
    )
    report = json.loads(done.stdout)
    assert done.stderr.split() == ["measuring", "measured"]
    assert report["seconds"] == pytest.approx(0.4, abs=0.1)
    assert report["ended_at_ns"] - report["started_at_ns"] == pytest.approx(
        report["seconds"] * 1e9, rel=1e-4
    )
    assert 0 < report["generator_cpu_seconds"] <= report["seconds"] * 1.05
    assert 0 < report["server_cpu_seconds"] <= report["seconds"] * (os.cpu_count() or 1) * 1.05
    assert report["rate"] == pytest.approx(report["requests"] / report["seconds"], rel=0.01)


# Scripted servers


class Scripted:
    """A server that answers each request's head as told."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            waiting = b""
            try:
                while True:
                    while b"\r\n\r\n" not in waiting:
                        if not (data := connection.recv(65536)):
                            return
                        waiting += data
                    head, _, waiting = waiting.partition(b"\r\n\r\n")
                    if (answer := self._answer(head)) is None:
                        return
                    connection.sendall(answer)
            except OSError:
                return  # the generator has what it wanted

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Accept nobody any more."""
        with contextlib.suppress(OSError):  # done already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __exit__(self, *_: object) -> None:
        self.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def ok(size: int = 100, more: str = "") -> bytes:
    """An answer with a value."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n{more}\r\n".encode() + b"x" * size


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "kind", "example"),
    [
        (ok(99), "length", "a value of 99 bytes"),
        (ok(), "content", "another value than was stored"),
        (NOT_FOUND, "status", "HTTP/1.1 404 Not Found"),
        (None, "lost", "closed by the server"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "unanswered", "not answered within"),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "parse", "can't be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", "parse", "can't be read"),
        (b"nonsense\r\n\r\n", "parse", "can't be read"),
        (NOT_FOUND + NOT_FOUND, "parse", "nobody asked for"),
    ],
    ids=["length", "content", "status", "close", "partial", "unsized", "size", "noise", "surplus"],
)
def test_wrong_answers_are_errors(
    loadgen: Loadgen, answer: bytes | None, kind: str, example: str
) -> None:
    """Each way to answer wrongly is counted as an error of its kind, and shown."""
    with Scripted(lambda head: answer) as server:
        report = loadgen.report(
            *("--port", server.port, "--operation", "get", "--seconds", 0.1, "--keys", 10),
            status=3,
        )
    assert report["errors"] > 0
    assert kind in report["error_kinds"]
    assert sum(report["error_kinds"].values()) == report["errors"]
    assert any(example in text for text in report["error_examples"])


def versioned(status: str, tag: str, body: bytes = b"x" * 100) -> bytes:
    """An answer with an ETag; a body only where the status has one."""
    length = "" if status.startswith("204") else f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status}\r\nETag: {tag}\r\n{length}\r\n".encode() + (body if length else b"")


def test_a_compare_and_set_sends_the_version_of_the_answer_before(loadgen: Loadgen) -> None:
    """Each If-Match has the ETag that the last answer for its key gave, the first one the fill's."""
    given: dict[bytes, int] = {}
    sent: list[tuple[int, int]] = []
    lock = threading.Lock()

    def answer(head: bytes) -> bytes:
        target = head.split()[1]
        with lock:
            last = given.get(target, 0)
            given[target] = last + 7
            if head.startswith(b"GET"):
                return versioned("200 OK", f'"{last + 7}"')
            tag = re.search(rb'\r\nIf-Match: "(\d+)"', head)
            assert tag is not None
            sent.append((int(tag[1]), last))
            return versioned("204 No Content", f'"{last + 7}"')

    with Scripted(answer) as server:
        loadgen.report(
            *("--port", server.port, "--operation", "cas", "--keys", 4, "--connections", 2),
            *("--value-size", 0, "--seconds", 0.2),
            status=3,  # the values that were learnt have 100 bytes
        )
    assert len(sent) > 20
    assert all(tag == last for tag, last in sent)


@pytest.mark.parametrize("current", [1, 2, 3_000_000, 1_764_000_000_000_000])
def test_a_stale_version_is_another_each_time_and_never_the_current_one(
    loadgen: Loadgen, current: int
) -> None:
    """The generator sends versions that the key hasn't, lower ones where there are such."""
    stale: list[int] = []

    def answer(head: bytes) -> bytes:
        if head.startswith(b"GET"):
            return versioned("200 OK", f'"{current}"', b"")
        tag = re.search(rb'\r\nIf-Match: "(\d+)"', head)
        stale.append(int(tag[1]) if tag else -1)
        return versioned("412 Precondition Failed", f'"{current}"', b"")

    with Scripted(answer) as server:
        loadgen.report(
            *("--port", server.port, "--operation", "cas-conflict", "--keys", 4),
            *("--value-size", 0, "--seconds", 0.2),
        )
    assert current not in stale
    assert min(stale) >= 0
    assert max(stale) <= max(current - 1, 2)
    assert len(set(stale)) > len(stale) // 2 or current < 10


@pytest.mark.parametrize("tag", ['"6"', '"71"'], ids=["stale", "longer"])
def test_a_conflict_must_tell_the_current_version(loadgen: Loadgen, tag: str) -> None:
    """A 412 with another version than the key has is an error."""

    def answer(head: bytes) -> bytes:
        if head.startswith(b"GET"):
            return versioned("200 OK", '"7"', b"")
        return versioned("412 Precondition Failed", tag, b"")

    with Scripted(answer) as server:
        report = loadgen.report(
            *("--port", server.port, "--operation", "cas-conflict", "--keys", 4),
            *("--value-size", 0, "--seconds", 0.1),
            status=3,
        )
    assert report["error_kinds"].keys() == {"content"}


@pytest.mark.parametrize("body", ["{}", '{"value": 1}', '{"value": "1"}', '{"value": -1}'])
def test_an_incr_must_answer_the_next_integer(loadgen: Loadgen, body: str) -> None:
    """An answer with no integer, or with one that was there before, is an error."""
    with Scripted(
        lambda head: ok(0).replace(b": 0", f": {len(body)}".encode()) + body.encode()
    ) as (server):
        report = loadgen.report(
            *("--port", server.port, "--operation", "incr", "--keys", 2, "--seconds", 0.1),
            status=3,
        )
    assert report["error_kinds"].keys() == {"content"}


def test_a_fill_gives_up_with_a_server_that_is_gone(loadgen: Loadgen) -> None:
    """A fill whose server ends says so instead of waiting for ever."""

    def leave(head: bytes) -> None:
        leaving.close()

    with Scripted(leave) as leaving:
        done = loadgen.run("--port", leaving.port, "--operation", "fill")
    assert done.returncode == 1
    assert "cannot connect any more" in done.stderr


def test_an_announced_close_is_no_error(loadgen: Loadgen) -> None:
    """Where the server says that it closes, the generator connects anew and goes on."""
    closing = ok(more="Connection: close\r\n")
    with Scripted(lambda head: closing) as server:
        report = loadgen.report(
            *("--port", server.port, "--fixed-path", "/x", "--operation", "get", "--seconds", 0.2)
        )
    assert report["errors"] == 0
    assert report["reconnects"] >= report["requests"] > 1


def test_a_head_in_pieces_is_put_together(loadgen: Loadgen) -> None:
    """Answers may come byte by byte, after an interim one, and with other headers."""
    text = b"HTTP/1.1 100 Continue\r\n\r\n" + ok(3, "X-Other: 1\r\ncontent-type: text/plain\r\n")

    def in_pieces() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while connection.recv(65536):
                for i in range(len(text)):
                    connection.sendall(text[i : i + 1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=in_pieces)
        thread.start()
        port = listener.getsockname()[1]
        report = loadgen.report(
            *("--port", port, "--fixed-path", "/x", "--operation", "get", "--seconds", 0.2)
        )
        thread.join(10)
    assert report["errors"] == 0
    assert report["requests"] > 1


def test_latency_is_from_the_request_to_the_answer(loadgen: Loadgen) -> None:
    """A server that takes 20 ms an answer shows as one that does, in both loops."""

    def slow(head: bytes) -> bytes:
        time.sleep(0.02)
        return NOT_FOUND

    with Scripted(slow) as server:
        for rate in ([], ["--rate", 40]):
            report = loadgen.report(
                *("--port", server.port, "--operation", "miss", "--connections", 2),
                *("--seconds", 0.5, *rate),
            )
            assert 20_000 <= report["latency_us"]["p50"] < 60_000
            assert report["latency_us"]["p50"] <= report["latency_us"]["max"]


def test_a_stall_shows_in_all_requests_that_were_due_meanwhile(loadgen: Loadgen) -> None:
    """At a constant rate, a server that stops for half a second pays for everybody who waited."""
    stalled = threading.Lock()
    begun = time.monotonic() + 0.3
    done = threading.Event()

    def stall_once(head: bytes) -> bytes:
        with stalled:
            if time.monotonic() > begun and not done.is_set():
                done.set()
                time.sleep(0.5)
        return NOT_FOUND

    with Scripted(stall_once) as server:
        report = loadgen.report(
            *("--port", server.port, "--operation", "miss", "--connections", 4),
            *("--seconds", 1.5, "--rate", 200),
        )
    assert done.is_set()
    assert report["requests"] == 300
    # A third of the requests were due in the stall, and waited 250 ms on average.
    assert report["latency_us"]["p90"] > 250_000
    assert report["latency_us"]["max"] > 480_000
    assert report["latency_us"]["p50"] < 250_000
    assert report["latency_us"]["mean"] == pytest.approx(83_000, rel=0.5)
    assert report["unsent"] == 0


def test_what_could_not_be_sent_is_told(loadgen: Loadgen) -> None:
    """Requests that the server had no time for are counted, and their waiting is too."""

    def slow(head: bytes) -> bytes:
        time.sleep(0.1)
        return NOT_FOUND

    with Scripted(slow) as server:
        report = loadgen.report(
            *("--port", server.port, "--operation", "miss", "--seconds", 1, "--rate", 100)
        )
    assert report["requests"] + report["unsent"] == 100
    assert report["rate"] == pytest.approx(10, abs=3)
    assert report["latency_us"]["max"] > 800_000


def targets(loadgen: Loadgen, *arguments: object) -> list[bytes]:
    """The heads of all requests that the generator sends."""
    heads: list[bytes] = []

    def remember(head: bytes) -> bytes:
        heads.append(head)
        return NOT_FOUND

    with Scripted(remember) as server:
        loadgen.report("--port", server.port, "--operation", "miss", *arguments)
    return heads


def test_zipf_has_the_frequencies_it_should(loadgen: Loadgen) -> None:
    """Key counts fall as the ranks to the power of the exponent."""
    heads = targets(
        loadgen,
        *("--distribution", "zipf:0.99", "--keys", 50, "--seconds", 1.5),
        *("--connections", 4, "--pipeline", 16),
    )
    counts = sorted(Counter(head.split()[1] for head in heads).values(), reverse=True)
    weights = [rank**-0.99 for rank in range(1, 51)]
    for rank in (0, 1, 3, 9):
        share = weights[rank] / sum(weights)
        spread = 4 * (share / len(heads)) ** 0.5
        assert counts[rank] / len(heads) == pytest.approx(share, abs=max(spread, 0.1 * share))


def test_uniform_keys_are_equally_frequent(loadgen: Loadgen) -> None:
    """Every key is asked for, none much more often than another."""
    heads = targets(loadgen, "--keys", 10, "--seconds", 0.5, "--connections", 4, "--pipeline", 16)
    counts = Counter(head.split()[1] for head in heads)
    assert len(counts) == 10
    assert max(counts.values()) < len(heads) / 10 + 5 * (len(heads) / 10) ** 0.5


def test_the_head_is_a_small_clients(loadgen: Loadgen) -> None:
    """A request has the four lines of a small client, the extra headers, and a key of its size."""
    head = targets(loadgen, "--seconds", 0.05, "--header", "X-One: 1", "--header", "X-Two: 2")[0]
    first, *lines = head.decode().split("\r\n")
    assert re.fullmatch(r"GET /v1/kv/bench/mis:\d{12} HTTP/1\.1", first)
    names = [line.split(":")[0] for line in lines]
    assert names == ["Host", "User-Agent", "Accept", "X-One", "X-Two"]


def test_a_changing_header_never_repeats(loadgen: Loadgen) -> None:
    """With --changing-header no two requests have the same bytes in either of its lines."""
    heads = targets(loadgen, "--keys", 1, "--changing-header", "--seconds", 0.2)
    assert len(set(heads)) == len(heads) > 1
    for line in (
        rb"\r\nX-Request-Id: [0-9a-f]{16}(?=\r|$)",
        rb"\r\ntraceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01(?=\r|$)",
    ):
        found = [re.search(line, head) for head in heads]
        assert len({each[0] for each in found if each}) == len(heads)


# Other protocols


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def peer(protocol: str) -> Generator[int]:
    """Run a Redis or memcached; yield its port."""
    name = {"resp": "redis-server", "memcached": "memcached"}[protocol]
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} isn't installed")
    port = free_port()
    flags = {
        "resp": ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        "memcached": ["-l", "127.0.0.1", "-p", str(port), "-U", "0", "-u", "nobody"],
    }[protocol]
    process = subprocess.Popen(
        [program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, f"{name} ended"
            return False
        return True

    try:
        wait_until(answers, name)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(
    ("protocol", "written", "read", "absent"),
    [("resp", "OK", "value", "absent"), ("memcached", "STORED", "value", "absent")],
)
def test_other_protocols(
    loadgen: Loadgen, protocol: str, written: str, read: str, absent: str
) -> None:
    """Redis and memcached get the same operations, and their answers are understood."""
    with peer(protocol) as port:
        common = ["--protocol", protocol, "--port", port, "--keys", 500, "--connections", 3]
        common += ["--pipeline", 4, "--seconds", 0.2]
        assert loadgen.report(*common, "--operation", "fill")["statuses"] == {written: 500}
        for operation, statuses in (
            ("get", {read}),
            ("miss", {absent}),
            ("put", {written}),
            ("mix", {read, written}),
            ("put --changing-length", {written}),
            ("put --ttl 60", {written}),
            ("fill --ttl 60", {written}),
            ("get", {read}),
            ("fill --integers", {written}),
            ("incr", {"integer"}),
        ):
            report = loadgen.report(*common, "--operation", *operation.split())
            assert report["statuses"].keys() == statuses
            assert sum(report["statuses"].values()) == report["requests"] > 0
        loadgen.report(*common, "--operation", "fill")
        shorter = loadgen.report(*common, "--operation", "get", "--value-size", 99, status=3)
        assert shorter["error_kinds"].keys() == {"length"}
        missing = loadgen.report(*common, "--operation", "get", "--keys", 100000, status=3)
        assert missing["error_kinds"].keys() == {"status"}


def test_compare_and_set_of_memcached(loadgen: Loadgen) -> None:
    """It is done with the versions that memcached gives; stale ones are refused, and so is no key."""
    with peer("memcached") as port:
        common = ["--protocol", "memcached", "--port", port, "--keys", 200, "--connections", 3]
        common += ["--pipeline", 4, "--seconds", 0.2]
        loadgen.report(*common, "--operation", "fill")
        for operation in ("cas", "cas --changing-length", "cas-conflict --changing-length"):
            report = loadgen.report(*common, "--operation", *operation.split())
            expected = "exists" if "conflict" in operation else "STORED"
            assert report["statuses"] == {expected: report["requests"]}
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"stats\r\n")
            stats = b""
            while not stats.endswith(b"END\r\n"):
                stats += client.recv(65536)
        assert re.search(rb"STAT cas_badval [1-9]", stats)
        assert re.search(rb"STAT cas_hits [1-9]", stats)
        more = ["--changing-length", "--keys", 300]
        missing = loadgen.report(*common, "--operation", "cas", *more, status=3)
        assert missing["error_kinds"].keys() == {"status"}


def test_an_error_of_redis_is_shown(loadgen: Loadgen) -> None:
    """What Redis answers with a minus is an error, with its text."""
    with peer("resp") as port:
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"CONFIG SET requirepass secret\r\n")
            assert client.recv(100) == b"+OK\r\n"
        report = loadgen.report(
            *("--protocol", "resp", "--port", port, "--operation", "put", "--seconds", 0.1),
            status=3,
        )
    assert report["statuses"].keys() == {"error"}
    assert report["error_examples"][0].startswith("-NOAUTH")
