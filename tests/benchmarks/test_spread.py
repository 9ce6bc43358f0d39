"""The comparison of ways to spread connections over loops still runs, with our own parts in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.generator import find_compiler
from tests.support.server import ROOT


@pytest.mark.skipif(
    find_compiler() is None or sys.platform != "linux",
    reason="the load generator needs a C compiler and Linux",
)
def test_a_quick_run_has_figures_of_every_way(tmp_path: Path) -> None:
    """Each way serves, no connection fails, and our own spreads them evenly and loses none."""
    output = tmp_path / "spread.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.spread", "--quick", "--json", str(output)],
        cwd=ROOT,
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    results = json.loads(output.read_text(encoding="utf-8"))["results"]
    for case, variants in results.items():
        assert set(variants) == {"acceptor", "reuseport", "shared"}, case
        for variant, samples in variants.items():
            assert all(samples.values()), (case, variant)
            assert set(samples.get("failures", [0])) == {0}, (case, variant)
        ours = variants["acceptor"]
        if "fullest" in ours:
            assert max(ours["fullest"]) - min(ours["emptiest"]) <= 1, case
        assert set(ours.get("lost", [0])) == {0}, case
