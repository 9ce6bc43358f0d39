"""Seconds from exec to ready: our server, an empty uvicorn, Redis, memcached, Python itself.

    python -m benchmarks.startup [--quick] [--rounds N] [--output DIR]

The subjects take turns. Ours is ready when it says so (`listening on`), Redis when it answers a PING,
memcached and uvicorn when they accept a connection, which is asked every half millisecond. `cold`
first asks the system to drop the interpreter's and the packages' files from memory; `uncompiled` has
no bytecode and keeps none. Last, where the time goes: imports by package, in processes of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import inprocess, peers

_DEADLINE: Final = 30.0
_PAUSE: Final = 0.0005
_SERVE: Final = ("-m", "cacheserver", "serve", "--port", "0", "--log-level", "warning")
_EMPTY_APP: Final = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
"""
_IMPORT: Final = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")

OURS: Final = "cacheserver"
BARE: Final = "python -c pass"

type Ready = Callable[[subprocess.Popen[bytes], int], None]
"""Returns when the process, which listens on this port if it does, is ready."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that is started."""

    name: str
    command: Callable[[int, Path], list[str]]
    """Given a free port and a folder of its own."""
    ready: Ready
    program: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    """Done before each start."""


@dataclass(frozen=True, slots=True)
class Import:
    """A module and the seconds that its import took."""

    module: str
    own: float
    cumulative: float
    """What it imported first included."""


def says_listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for our server's line."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"listening on "):
            return
    raise RuntimeError(f"{process.args!r} ended before it listened")


def has_ended(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for the end of a process that does nothing."""
    if process.wait():
        raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")


def accepts(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a connection can be made."""
    _until(process, lambda: _asked(port, b"", b""))


def answers_ping(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until Redis answers."""
    _until(process, lambda: _asked(port, b"PING\r\n", b"+PONG\r\n"))


def _until(process: subprocess.Popen[bytes], probe: Callable[[], bool]) -> None:
    while not probe():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        time.sleep(_PAUSE)


def _asked(port: int, question: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(question)
            return not answer or connection.recv(64) == answer
    except OSError:
        return False


def drop_files() -> None:
    """Ask the system to forget the interpreter's files and the packages'."""
    paths = sysconfig.get_paths()
    folders = {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for folder in {*folders, inprocess.ROOT / "cacheserver", Path(sys.executable).resolve().parent}:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _serve(port: int, folder: Path) -> list[str]:
    return [sys.executable, *_SERVE]


def _uvicorn(port: int, folder: Path) -> list[str]:
    (folder / "empty_app.py").write_text(_EMPTY_APP, encoding="ascii")
    flags = ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
    where = ["--app-dir", str(folder), "--port", str(port), "empty_app:app"]
    return [sys.executable, "-m", "uvicorn", *flags, *where]


def _peer(name: str) -> Callable[[int, Path], list[str]]:
    peer = next(subject for subject in peers.SUBJECTS if subject.name == name)
    return lambda port, folder: peer.command(
        peer.find() or peer.program, peers.Place(folder, port, None)
    )


def subjects() -> list[Subject]:
    """Return all that there is to start."""
    found = [
        Subject(OURS, _serve, says_listening),
        Subject(
            f"{OURS}, uncompiled",
            _serve,
            says_listening,
            environment={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": os.devnull},
        ),
        Subject("uvicorn, empty app", _uvicorn, accepts),
        Subject(BARE, lambda port, folder: [sys.executable, "-c", "pass"], has_ended),
        Subject("redis-server", _peer("redis"), answers_ping, "redis-server"),
        Subject("memcached", _peer("memcached"), accepts, "memcached"),
    ]
    if hasattr(os, "posix_fadvise"):
        found.insert(1, Subject(f"{OURS}, cold", _serve, says_listening, before=drop_files))
    return found


def seconds_to_ready(subject: Subject) -> float:
    """Start it once, and stop it."""
    subject.before()
    with tempfile.TemporaryDirectory(prefix="cacheserver-startup-") as name:
        port = _free_port()
        command = subject.command(port, Path(name))
        with (Path(name) / "log").open("w+b") as log:
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=name,
                env=_environment(subject.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            too_late = threading.Timer(_DEADLINE, process.kill)
            too_late.start()
            try:
                subject.ready(process, port)
                return time.perf_counter() - started
            except RuntimeError as error:
                log.seek(0)
                raise RuntimeError(f"{error}: {log.read().decode(errors='replace')}") from None
            finally:
                too_late.cancel()
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(extra: dict[str, str]) -> dict[str, str]:
    settings = ("CACHESERVER_", "UVICORN_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    return {**kept, "PYTHONPATH": str(inprocess.ROOT), **extra}


def import_times() -> list[Import]:
    """Start our server once; return what it imported."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", *_SERVE],
            cwd=inprocess.ROOT,
            env=_environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            says_listening(process, 0)
        finally:
            _stop(process)
        log.seek(0)
        return parse_import_times(log.read().decode(errors="replace"))


def parse_import_times(text: str) -> list[Import]:
    """Read what `-X importtime` writes."""
    lines = filter(None, map(_IMPORT.match, text.splitlines()))
    return [Import(found[3], int(found[1]) / 1e6, int(found[2]) / 1e6) for found in lines]


def package_of(module: str) -> str:
    """Return the package that a module is of; the standard library counts as one."""
    package = module.partition(".")[0]
    return "standard library" if package in sys.stdlib_module_names else package


def summarise_imports(runs: Sequence[Sequence[Import]]) -> dict[str, Any]:
    """Return medians over runs, in seconds: all imports, each package, the slowest modules.

    A package's `own` is the time of its modules alone, `with_others` that of its first import,
    which contains whatever nobody had imported before.
    """
    own: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    modules: dict[str, list[float]] = {}
    for run in runs:
        sums: dict[str, float] = {}
        for each in run:
            package = package_of(each.module)
            sums[package] = sums.get(package, 0) + each.own
            modules.setdefault(each.module, []).append(each.own)
            if each.module == package:
                first.setdefault(package, []).append(each.cumulative)
        for package, seconds in sums.items():
            own.setdefault(package, []).append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in own.items()}
    packages = {
        name: {
            "own": medians[name],
            "with_others": statistics.median(first[name]) if name in first else None,
        }
        for name in sorted(medians, key=lambda name: -medians[name])
    }
    slowest = sorted(((statistics.median(times), name) for name, times in modules.items()))
    return {
        "modules": len(runs[0]),
        "total": statistics.median(sum(each.own for each in run) for run in runs),
        "packages": packages,
        "slowest": {name: seconds for seconds, name in slowest[:-11:-1]},
    }


def summarise(samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row for each subject: seconds, and the ratio of its median to our warm start's."""
    ours = statistics.median(samples[OURS])
    return [
        {
            "subject": name,
            "seconds": inprocess.spread(seconds),
            "over_ours": statistics.median(seconds) / ours,
        }
        for name, seconds in samples.items()
    ]


def run(rounds: int, chosen: Sequence[Subject], import_runs: int) -> dict[str, Any]:
    """Start everything so often, in turns; the first start of each does not count."""
    left_out = {
        subject.name: f"{subject.program} is not installed"
        for subject in chosen
        if shutil.which(subject.program) is None
    }
    present = [subject for subject in chosen if subject.name not in left_out]
    samples: dict[str, list[float]] = {subject.name: [] for subject in present}
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        for subject in present:
            seconds = seconds_to_ready(subject)
            if number:
                samples[subject.name].append(seconds)
    return {
        "benchmark": "startup",
        "machine": inprocess.machine(),
        "settings": {"rounds": rounds, "import_runs": import_runs},
        "left_out": left_out,
        "rows": summarise(samples),
        "imports": summarise_imports([import_times() for _ in range(import_runs)]),
    }


def report(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    rows = [
        [row["subject"]]
        + [f"{1000 * row['seconds'][name]:.1f}" for name in ("median", "min", "max")]
        + [f"{row['over_ours']:.2f}"]
        for row in result["rows"]
    ]
    imports = result["imports"]

    packages = [
        [name, f"{1000 * each['own']:.1f}", _milliseconds(each["with_others"])]
        for name, each in list(imports["packages"].items())[:10]
    ]
    slowest = [[name, f"{1000 * seconds:.1f}"] for name, seconds in imports["slowest"].items()]
    parts = [
        inprocess.describe(result["machine"]),
        f"Milliseconds from exec to ready, {result['settings']['rounds']} starts each, in turns.",
        inprocess.table(["subject", "median", "min", "max", "over ours"], rows),
    ]
    parts += [f"- left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    parts += [
        f"Imports until our server listens: {imports['modules']} modules, "
        f"{1000 * imports['total']:.0f} ms while they are being timed, which slows them. "
        "Milliseconds of a package's own modules, and of its first import with all that came with it:",
        inprocess.table(["package", "own", "with others"], packages),
        inprocess.table(["slowest modules", "own"], slowest),
    ]
    return "\n\n".join(parts)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit status."""
    parser = inprocess.parser("Measure the seconds from exec to ready.")
    parser.add_argument("--rounds", type=int, help="starts of each; default: 15")
    given = parser.parse_args(arguments)
    rounds = given.rounds or (2 if given.quick else 15)
    result = run(rounds, subjects(), import_runs=1 if given.quick else 5)
    print(report(result))
    print(f"\nwritten: {inprocess.write_json(given.output, 'startup.json', result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
