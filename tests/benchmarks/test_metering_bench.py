"""The benchmark of what measuring costs: the lines that it cuts out are those that measure."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import metering, peers
from benchmarks.peers import Place, Running, running
from tests.support.server import ROOT


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package."""
    return Path(shutil.copytree(ROOT / "cacheserver", tmp_path / "cacheserver"))


def test_what_was_changed_is_told(package: Path) -> None:
    """A line that is no longer there, or there twice, is none that can be cut out."""
    metering.cut_out(package)
    with pytest.raises(ValueError, match=r"store/readers\.py has no longer"):
        metering.cut_out(package)


def test_the_other_server_serves_and_counts_no_reads() -> None:
    """It answers as ours does, and has counted none of the quick reads."""
    answers, counted = {}, {}
    for subject in metering.SUBJECTS[:2]:
        with running(subject) as server:
            answers[subject.name] = [ask(server, "PUT"), *(ask(server, "GET") for _ in range(9))]
            text = ask(server, "GET", "/metrics").decode()
            counted[subject.name] = 'cacheserver_hits_total{namespace="n"}' in text and next(
                float(line.split()[1])
                for line in text.splitlines()
                if line.startswith('cacheserver_hits_total{namespace="n"}')
            )
    assert answers["off"] == answers["on"] == [b"", *[b"value"] * 9]
    assert counted == {"off": 0, "on": 9}


def ask(server: Running, method: str, target: str = "/v1/kv/n/k") -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, target, b"value" if method == "PUT" else None)
        return connection.getresponse().read()


def test_the_server_that_measures_nothing_is_our_package(tmp_path: Path) -> None:
    """It runs from the copy, and not from the package beside it."""
    command = metering.SUBJECTS[0].command(sys.executable, Place(tmp_path, 0, None))
    told = command[2].replace("sys.exit(cacheserver.cli.main())", "print(cacheserver.__file__)")
    done = subprocess.run(
        [command[0], "-c", told], capture_output=True, text=True, check=True, cwd=peers.ROOT
    )
    assert Path(done.stdout.strip()).parent == tmp_path / "cacheserver"
