"""The benchmark of what measuring costs: the lines that it cuts out are those that measure."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import copies, metering
from benchmarks.peers import Running, running
from tests.support.server import ROOT

SOURCE = """\
cdef class Counter:
    cdef long hits  # metering
    cdef long spent

    def read(self, long now):
        self.hits += 1  # metering
        if now > 7:
            # metering: begin
            if now > 9:
                self.spent += (
                    now - 9
                )
            # metering: instead: pass
            # metering: end
        # metering: begin
        self.spent += 1
        # metering: end
        return now  # what metering said
"""
CUT = """\
cdef class Counter:
    cdef long spent

    def read(self, long now):
        if now > 7:
            pass
        return now  # what metering said
"""


def test_marked_lines_are_cut() -> None:
    """Lines and blocks go, what is to stand there instead does, and nothing else is touched."""
    assert metering.without_metering(SOURCE) == CUT
    assert metering.without_metering(CUT) == CUT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n# metering: begin\nx = 2\n", "line 2: what begins here has no end"),
        ("x = 1\n# metering: end\n", "line 2: a mark that means nothing here"),
        ("# metering: instead: x\n", "line 1: a mark that means nothing here"),
        ("# metering: begin\nx = 1  # metering\n# metering: end\n", "line 2: a mark that means"),
        ("# metering: begin\n# metering: begin\n# metering: end\n", "line 2: a mark that means"),
        ("x = 1  # metering, and more\n", "line 1: a mark that means nothing here"),
        ("# metering\n", "line 1: a mark that means nothing here"),
    ],
)
def test_marks_that_cannot_be_understood_are_told(text: str, message: str) -> None:
    """Nothing is left in, or out, because of a slip in a mark."""
    with pytest.raises(ValueError, match=message):
        metering.without_metering(text, "some.pyx")


def test_a_package_without_marks_is_told(tmp_path: Path) -> None:
    """Two servers that measure alike are no comparison."""
    (tmp_path / "plain.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no line in"):
        metering.cut_out(tmp_path)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a project with one compiled module that counts, built as this one is."""
    root = tmp_path / "root"
    package = root / "cacheserver"
    (package / "store").mkdir(parents=True)
    (package / "insight").mkdir()
    (package / "insight" / "history.py").write_text("class Record: ...\n", encoding="utf-8")
    for folder in (package, package / "store", package / "insight"):
        (folder / "__init__.py").touch()
    (package / "store" / "tally.pyx").write_text(
        "hits = 0\n\n\ndef read():\n    global hits\n    hits += 1  # metering\n    return hits\n",
        encoding="utf-8",
    )
    stale = f"tally{sysconfig.get_config_var('EXT_SUFFIX')}"
    (package / "store" / stale).write_text("stale", encoding="utf-8")
    for name in copies._BUILD_FILES:
        shutil.copy(ROOT / name, root / name)
    monkeypatch.setattr(copies, "ROOT", root)
    return root


@pytest.mark.timeout(300)
def test_a_copy_is_compiled_of_its_own_sources(small: Path, tmp_path: Path) -> None:
    """What was cut out is not in the module that is imported, and what was built before isn't, either."""
    counts = []
    for name, cut in (("whole", False), ("cut", True)):
        folder = tmp_path / name
        folder.mkdir()
        package = copies.copy_here(folder)
        assert not list(package.rglob("*.so"))
        if cut:
            assert metering.cut_out(package) == 1
        copies.compile_copy(folder)
        code = "from cacheserver.store import tally; print(tally.read(), tally.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=copies.import_path(folder, os.environ),
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        count, file = done.stdout.split()
        assert Path(file).is_relative_to(folder)
        counts.append(int(count))
    assert counts == [1, 0]


def test_sources_that_do_not_compile_are_told(small: Path, tmp_path: Path) -> None:
    """The compiler's words reach whoever asked for the copy."""
    folder = tmp_path / "broken"
    folder.mkdir()
    package = copies.copy_here(folder)
    (package / "store" / "tally.pyx").write_text("def read(:\n", encoding="utf-8")
    with pytest.raises(copies.CopyError, match=r"tally\.pyx"):
        copies.compile_copy(folder)


@pytest.mark.timeout(300)  # it compiles what is cut
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
