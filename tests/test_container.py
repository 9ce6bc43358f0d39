"""The image builds, and containers from it serve, stay confined and stop cleanly.

What is checked stands in scripts/container-check. It runs with docker, or without on a Debian where
its packages are installed; to leave it out: make test ARGS='-m "not container"'.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import ROOT

CHECK = str(ROOT / "scripts" / "container-check")
DEADLINE = 900.0
"""Seconds. With everything at hand it takes half a minute; an interpreter to build takes minutes."""


@pytest.mark.container
@pytest.mark.timeout(DEADLINE + 30)
def test_the_image_builds_and_its_containers_serve() -> None:
    """scripts/container-check passes, the interpreter of these tests in the image where it fits."""
    if Path(sys.prefix).name == ".venv-gil":
        pytest.skip(
            "the image has an interpreter of its own: it was tried in the run before this one"
        )
    can_run = subprocess.run([CHECK, "--can-run"], capture_output=True, text=True, timeout=60)
    if can_run.returncode == 77:
        pytest.skip(can_run.stderr.strip())
    faulthandler.cancel_dump_traceback_later()  # set for tests that never take so long
    status, said = _run([CHECK, "--reuse-interpreter"])
    assert status == 0, said
    assert "all passed" in said


def _run(command: list[str]) -> tuple[int, str]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHON": sys.executable},
    )
    try:
        said, _ = process.communicate(timeout=DEADLINE)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # it removes its containers
        process.communicate(timeout=30)
        raise
    return process.returncode, said
