"""The examples as a user runs them, against a real server with two threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from cacheserver.settings import gil_is_on
from tests.support.server import ROOT, running_server

SYSTEM_WORDS = "/usr/share/dict/american-english"
WITH_GIL = 10_000
"""Words loaded where the GIL makes client and server slow; all of them elsewhere."""


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, its output captured."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )


def figure(label: str, output: str) -> int:
    """Return the first number behind a label."""
    found = re.search(rf"^{label} +([0-9,]+)", output, re.MULTILINE)
    assert found, output
    return int(found[1].replace(",", ""))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The word list of Debian's wamerican."""
    path = Path(os.environ.get("CACHESERVER_TEST_WORDS", SYSTEM_WORDS))
    if not path.is_file():
        pytest.skip(f"no word list at {path}: scripts/provision words gets one where Debian is")
    if not gil_is_on():
        return path
    part = tmp_path / "words"
    with path.open(encoding="utf-8") as lines:
        part.write_text("".join(islice(lines, WITH_GIL)), encoding="utf-8")
    return part


@pytest.mark.timeout(300)
def test_words_every_word_comes_back_as_it_was_written(words: Path) -> None:
    """Sixteen connections load the list, and each word is read back with its value and version."""
    expected = len(set(words.read_text(encoding="utf-8").split()))
    assert expected >= WITH_GIL
    with running_server("--threads", "2") as server:
        done = run_example("words.py", str(words), "--url", server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figure("connections", done.stdout) == 16
    assert figure("written", done.stdout) == figure("read", done.stdout) == expected
    assert figure("mismatches", done.stdout) == 0


@pytest.mark.timeout(300)
def test_counter_no_increment_is_lost() -> None:
    """Eight clients add 1,000 each with compare-and-set, meet conflicts, and end at 8,000."""
    with running_server("--threads", "2") as server:
        assert server.threads == 2
        done = run_example("counter.py", "--url", server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figure("end value", done.stdout) == 8_000
    assert figure("attempts", done.stdout) == 8_000 + figure("conflicts", done.stdout)
    assert figure("conflicts", done.stdout) > 0


def test_words_fails_when_nothing_could_be_written(tmp_path: Path) -> None:
    """The check can fail: a server that refuses every write is told by count and exit status."""
    path = tmp_path / "words"
    path.write_text("alpha\nbeta\n", encoding="utf-8")
    with running_server("--max-memory", "64") as server:
        done = run_example("words.py", str(path), "--url", server.url)
    assert done.returncode == 1
    assert figure("mismatches", done.stdout) == 2


@pytest.mark.parametrize("name", ["words.py", "counter.py"])
def test_without_a_server_the_examples_say_so(name: str, tmp_path: Path) -> None:
    """Where nobody listens there is one line that says what to do, and no traceback."""
    path = tmp_path / "words"
    path.write_text("alpha\n", encoding="utf-8")
    with running_server() as server:
        url = server.url
    arguments = [str(path)] if name == "words.py" else []
    done = run_example(name, *arguments, "--url", url)
    assert done.returncode == 1
    assert "is the server running?" in done.stderr
    assert "Traceback" not in done.stderr
