"""The benchmark of views: it measures the revisions that it names, and compares them rightly."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import copies, views
from benchmarks.views import summarise, targets
from tests.support.server import ROOT


def test_ratios_are_those_of_rounds() -> None:
    """What slows a whole round down moves no ratio; the best rounds are compared too."""
    (row,) = summarise([{"read": 1.0}, {"read": 0.1}, {"read": 2.0}], [{"read": 4.0}] * 3)
    assert row["over"] == 4.0
    assert row["over_best"] == 2.0
    assert [row[side]["median"] for side in ("before", "now")] == [1.0, 4.0]


def test_targets_are_met_at_their_bound() -> None:
    """Four times as many values a second are enough, fewer are not."""
    for now, met in ((4.0, True), (3.9, False)):
        (judged,) = targets(summarise([{"read": 1.0}], [{"read": now}]), "then")
        assert (judged["value"], judged["met"]) == (now, met)


@pytest.mark.timeout(300)
def test_two_packages_are_measured_each_in_turn(tmp_path: Path) -> None:
    """A copy is what is imported from its folder, and both give a rate for every loop."""
    copies.copy_here(tmp_path)
    copies.compile_copy(tmp_path)
    found = views.collect({"before": tmp_path, "now": ROOT}, 1, 0.002, 50)
    assert len(found["before"]) == len(found["now"]) == 1
    for rates in (*found["before"], *found["now"]):
        assert list(rates) == ["StripedDict read", "StripedDict put", "Store read", "Store put"]
        assert all(rate > 0 for rate in rates.values())


def test_another_package_than_was_asked_for_is_no_figure(tmp_path: Path) -> None:
    """Where the folder has no package, the one beside it isn't measured in its name."""
    with pytest.raises(copies.CopyError, match="instead of the package"):
        views.collect({"before": tmp_path}, 1, 0.002, 50)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two revisions, of which only the second is compiled."""
    root = tmp_path / "root"
    package = root / copies.PACKAGE
    package.mkdir(parents=True)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    git("init")
    for tag, name in (("first", "one.py"), ("second", "two.py")):
        (package / name).touch()
        if tag == "second":
            (root / "setup.py").touch()
        git("add", ".")
        git("commit", "-m", tag)
        git("tag", tag)
    monkeypatch.setattr(copies, "ROOT", root)
    return root


def test_another_revision_is_got_as_it_was(checkout: Path, tmp_path: Path) -> None:
    """Its files are there, later ones are not, and neither is what isn't the package."""
    for tag, names in (("first", ["one.py"]), ("second", ["one.py", "two.py"])):
        folder = tmp_path / tag
        folder.mkdir()
        package = copies.copy_revision(tag, folder)
        assert sorted(path.name for path in package.iterdir()) == names
        assert (folder / "setup.py").exists() is (tag == "second")


def test_a_revision_that_is_not_there_is_told(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with status 1 and git's own words."""
    assert views.main(["--before", "never", "--output", str(tmp_path)]) == 1
    assert "never" in capsys.readouterr().err
    assert not (tmp_path / "views.json").exists()


def test_a_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the table and writes what it found."""
    rates = dict.fromkeys(("StripedDict read", "Store put"), 2.0)
    monkeypatch.setattr(views, "copy_revision", lambda revision, folder: folder)
    monkeypatch.setattr(views, "_in_a_process", lambda folder, seconds, keys: rates)
    assert views.main(["--quick", "--before", "then", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "views.json").read_text(encoding="utf-8"))
    assert result["before"] == "then"
    assert [row["over"] for row in result["rows"]] == [1.0, 1.0]
