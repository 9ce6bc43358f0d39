"""Resident memory an entry takes: our server, Redis, memcached and our store without a server.

    python -m benchmarks.memory [--quick] [--keys N] [--output DIR]

Each server is filled by the same generator with the same keys (16 bytes) and values (64 bytes); what
its process has resident then, less what it had empty, over the number of entries. Then every key is
written a second time, and then every key is deleted: what is still resident tells what writing
and deleting leave behind. Reads /proc, so it needs Linux; and a C compiler for the generator.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import inprocess, peers
from benchmarks.inprocess_load import VALUE_SIZE, filled_value, key, written_value
from cacheserver import Store, StripedDict, operations

KEY_SIZE: Final = 16
FULL_KEYS: Final = 1_000_000
QUICK_KEYS: Final = 50_000
OURS: Final = "cacheserver-2"
SERVERS: Final = (OURS, "redis", "memcached")
STEPS: Final = ("empty", "filled", "rewritten", "deleted")
SETTLE: Final = 1.0
"""Seconds between the last answer and the reading: event loops free what other ones dropped."""
SETTLE_DELETED: Final = 12.0
"""The same after the deletion: jemalloc, which Redis uses, gives memory back over 10 seconds."""
_BATCH: Final = 500
_PATH: Final = "/v1/kv/bench/"


def resident(pid: int) -> dict[str, int]:
    """Return the process's resident, proportional and private bytes, and the highest so far."""
    folder = Path("/proc") / str(pid)
    status = _sizes(folder / "status")
    rollup = _sizes(folder / "smaps_rollup")
    return {
        "rss": status["VmRSS"],
        "pss": rollup["Pss"],
        "private": rollup["Private_Clean"] + rollup["Private_Dirty"],
        "peak": status["VmHWM"],
    }


def _sizes(path: Path) -> dict[str, int]:
    """Read lines like `VmRSS:   123 kB`, in bytes."""
    fields = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {each[0].rstrip(":"): int(each[1]) * 1024 for each in fields if each[-1:] == ["kB"]}


@dataclass(frozen=True, slots=True)
class Deletion:
    """How a protocol deletes: what is sent for a key, and what comes back when it was there."""

    request: Callable[[str], str]
    answer: bytes


DELETIONS: Final = {
    "http": Deletion(
        lambda name: f"DELETE {_PATH}{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"HTTP/1.1 204 "
    ),
    "resp": Deletion(lambda name: f"*2\r\n$3\r\nDEL\r\n${len(name)}\r\n{name}\r\n", b":1\r\n"),
    "memcached": Deletion(lambda name: f"delete {name}\r\n", b"DELETED\r\n"),
}


def delete_all(protocol: str, port: int, keys: int) -> None:
    """Delete the keys; RuntimeError if one of them was not there."""
    how = DELETIONS[protocol]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for start in range(0, keys, _BATCH):
            names = [key(number) for number in range(start, min(start + _BATCH, keys))]
            connection.sendall("".join(map(how.request, names)).encode())
            received = b""
            while received.count(how.answer) < len(names):
                try:
                    more = connection.recv(1 << 16)
                except TimeoutError:
                    more = b""
                if not more:
                    raise RuntimeError(f"not all keys were deleted: ...{received[-200:]!r}")
                received += more


def compile_generator(folder: Path) -> Path:
    """Compile the load generator into this folder. Raises CalledProcessError."""
    made = folder / "loadgen"
    source = Path(__file__).with_name("loadgen.c")
    subprocess.run(["cc", "-O2", "-o", str(made), str(source), "-lm"], check=True)
    return made


def fill(generator: Path, protocol: str, port: int, keys: int) -> None:
    """Write every key once; RuntimeError if an answer was wrong."""
    where = ["--protocol", protocol, "--host", "127.0.0.1", "--port", str(port), "--path", _PATH]
    what = ["--keys", str(keys), "--key-size", str(KEY_SIZE), "--value-size", str(VALUE_SIZE)]
    how = ["--operation", "fill", "--connections", "4", "--pipeline", "32"]
    done = subprocess.run(
        [str(generator), *where, *what, *how], capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise RuntimeError(f"the fill failed: {done.stderr.strip()}\n{done.stdout.strip()}")


def measure_server(name: str, generator: Path, keys: int, settle: float) -> dict[str, Any]:
    """Take a server through all steps. Returns what it had resident after each."""
    subject = _server(name)
    with peers.running(subject) as running:
        work: tuple[Callable[[], None], ...] = (
            lambda: None,
            lambda: fill(generator, subject.protocol, running.port, keys),
            lambda: fill(generator, subject.protocol, running.port, keys),
            lambda: delete_all(subject.protocol, running.port, keys),
        )
        found: dict[str, Any] = {}
        for step, do in zip(STEPS, work, strict=True):
            do()
            time.sleep(settle if step == "deleted" else min(settle, SETTLE))
            found[step] = _added(running.pids())
            if step == "filled" and name == OURS:
                found["accounted"] = _accounted(running.port)
    return found


def _added(pids: Sequence[int]) -> dict[str, int]:
    each = [resident(pid) for pid in pids]
    return {name: sum(sizes[name] for sizes in each) for name in each[0]}


def _accounted(port: int) -> int:
    """What our server says that its entries take."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith('cacheserver_bytes{namespace="bench"}')]
    return int(float(found[0].split()[-1]))


def _fill_dict(keys: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], int]]:
    kept: dict[str, bytes] = {}
    return (
        lambda: kept.update((key(number), filled_value(number)) for number in range(keys)),
        kept.clear,
        lambda: 0,
    )


def _fill_striped(keys: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], int]]:
    kept: StripedDict[str, bytes] = StripedDict()

    def write() -> None:
        for number in range(keys):
            kept.put(key(number), filled_value(number))

    def delete() -> None:
        for number in range(keys):
            del kept[key(number)]

    return write, delete, lambda: 0


def _fill_store(keys: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], int]]:
    store = Store(max_memory=1 << 40)
    view = store.view()

    def write() -> None:
        for number in range(keys):
            operations.put(view, "bench", key(number), written_value(0, number))

    def delete() -> None:
        for number in range(keys):
            operations.delete(view, "bench", key(number))

    return write, delete, lambda: store.statistics().bytes


INSIDE: Final = {
    "dict in process": _fill_dict,
    "StripedDict in process": _fill_striped,
    "Store in process": _fill_store,
}
"""Filled without a server; each is measured in a process of its own."""


def steps_inside(name: str, keys: int) -> dict[str, Any]:
    """Take one of INSIDE through all steps, in this process."""
    write, delete, accounted = INSIDE[name](keys)
    own = int(Path("/proc/self").resolve().name)
    found: dict[str, Any] = {"empty": resident(own)}
    for step, do in (("filled", write), ("rewritten", write), ("deleted", delete)):
        do()
        found[step] = resident(own)
        if step == "filled" and accounted():
            found["accounted"] = accounted()
    return found


def measure_inside(name: str, keys: int) -> dict[str, Any]:
    """Take one of INSIDE through all steps, in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--inside", name, "--keys", str(keys)]
    done = subprocess.run(
        command, cwd=inprocess.ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return dict(json.loads(done.stdout))


def summarise(found: dict[str, dict[str, Any]], keys: int) -> list[dict[str, Any]]:
    """Return a row for each subject: bytes an entry after each step, and ratios to Redis."""
    rows = []
    for name, steps in found.items():
        row: dict[str, Any] = {"subject": name, "steps": steps, "empty": steps["empty"]["rss"]}
        for step in STEPS[1:]:
            row[step] = _grown(steps, step, "rss") / keys
        row["filled_private"] = _grown(steps, "filled", "private") / keys
        row["peak"] = (steps["deleted"]["peak"] - steps["empty"]["rss"]) / keys
        row["accounted"] = steps["accounted"] / keys if "accounted" in steps else None
        rows.append(row)
    redis = next((row["filled"] for row in rows if row["subject"] == "redis"), None)
    for row in rows:
        row["over_redis"] = row["filled"] / redis if redis else None
    return rows


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold the rows against what the project wants of itself."""
    ours = next((row["over_redis"] for row in rows if row["subject"] == OURS), None)
    name = f"resident bytes an entry of {VALUE_SIZE} bytes under a key of {len(key(0))}, over Redis"
    return [inprocess.target(name, ours, 1.5, 1.0, at_most=True)]


def _grown(steps: dict[str, Any], step: str, what: str) -> int:
    return int(steps[step][what] - steps["empty"][what])


def _server(name: str) -> peers.Subject:
    return next(subject for subject in peers.SUBJECTS if subject.name == name)


def run(
    keys: int,
    servers: Sequence[str] = SERVERS,
    inside: Sequence[str] = (),
    settle: float = SETTLE_DELETED,
) -> dict[str, Any]:
    """Measure all subjects that are installed, one after the other."""
    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="cacheserver-memory-") as folder:
        generator = compile_generator(Path(folder))
        for name in servers:
            subject = _server(name)
            if subject.find() is None:
                left_out[name] = subject.why_missing()
                continue
            print(f"{name}: {keys:,} entries", file=sys.stderr, flush=True)
            found[name] = measure_server(name, generator, keys, settle)
            versions[name] = f"{subject.version()}, {subject.note}"
    for name in inside:
        print(f"{name}: {keys:,} entries", file=sys.stderr, flush=True)
        found[name] = measure_inside(name, keys)
    rows = summarise(found, keys)
    return {
        "benchmark": "memory",
        "machine": inprocess.machine(),
        "settings": {
            "keys": keys,
            "key_size": KEY_SIZE,
            "value_size": VALUE_SIZE,
            "settle": settle,
        },
        "versions": versions,
        "left_out": left_out,
        "rows": rows,
        "targets": targets(rows),
    }


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    settings = result["settings"]
    head = ["subject", "empty, MB", "bytes an entry", "over Redis", "private", "rewritten"]
    head += ["peak", "left when deleted", "accounted"]
    rows = [
        [
            row["subject"],
            f"{row['empty'] / 1e6:.1f}",
            f"{row['filled']:.0f}",
            "-" if row["over_redis"] is None else f"{row['over_redis']:.2f}",
            f"{row['filled_private']:.0f}",
            f"{row['rewritten']:.0f}",
            f"{row['peak']:.0f}",
            f"{row['deleted']:.0f}",
            "-" if row["accounted"] is None else f"{row['accounted']:.0f}",
        ]
        for row in result["rows"]
    ]
    parts = [
        inprocess.describe(result["machine"]),
        f"{settings['keys']:,} entries, keys of {settings['key_size']} and values of "
        f"{settings['value_size']} bytes. Resident bytes over the empty process's, an entry; "
        "`peak` is the highest ever, `accounted` what our server counts against --max-memory.",
        "\n".join(f"- {name}: {version}" for name, version in result["versions"].items()),
    ]
    parts += [f"- left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    parts += [inprocess.table(head, rows), inprocess.target_table(result["targets"])]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Measure the resident memory that an entry takes.")
    parser.add_argument("--keys", type=int, help=f"default: {FULL_KEYS:,}")
    parser.add_argument("--inside", choices=INSIDE, help="print what this one took in this process")
    given = parser.parse_args(arguments)
    if not Path("/proc/self/smaps_rollup").exists():
        parser.error("this reads /proc/PID/smaps_rollup, which only Linux has")
    keys = given.keys or (QUICK_KEYS if given.quick else FULL_KEYS)
    if given.inside:
        print(json.dumps(steps_inside(given.inside, keys)))
        return 0
    if shutil.which("cc") is None:
        parser.error("no C compiler: scripts/peers installs one")
    settle = SETTLE if given.quick else SETTLE_DELETED
    result = run(keys, inside=tuple(INSIDE), settle=settle)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'memory.json', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
