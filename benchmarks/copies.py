"""Copies of the package that a benchmark changes, or that another revision had, ready to be imported.

No compiled module is taken along: a copy has its own, made of its own sources, or can't be imported.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.inprocess import ROOT

PACKAGE: Final = "cacheserver"
_BUILT: Final = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.c")
_BUILD_FILES: Final = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
_COMPILE: Final = ROOT / "scripts" / "provision"


class CopyError(Exception):
    """There is no such copy: no such revision, or it doesn't compile. Says what went wrong."""


def copy_here(folder: Path) -> Path:
    """Copy the sources of this checkout into a folder; return the package, not compiled yet.

    What the build keeps comes along with its times, so that only what is changed in the copy is
    compiled again.
    """
    for name in _BUILD_FILES:
        shutil.copy2(ROOT / name, folder / name)
    for part in (sysconfig.get_config_var("SOABI"), "c"):
        if (kept := ROOT / "build" / part).is_dir():
            shutil.copytree(kept, folder / "build" / part)
    return Path(shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=_BUILT))


def copy_revision(revision: str, folder: Path) -> Path:
    """Put the sources of another revision into a folder; return its package, not compiled yet.

    Raises CopyError where this is no checkout, or one that has no such revision.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        there = _output([*git, "ls-tree", "--name-only", revision]).decode().splitlines()
        wanted = [name for name in (PACKAGE, *_BUILD_FILES) if name in there]
        archive = _output([*git, "archive", revision, "--", *wanted])
    except FileNotFoundError as error:
        raise CopyError("there is no git to get another revision with") from error
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / PACKAGE


def compile_copy(folder: Path) -> None:
    """Compile for this interpreter what of a copy is to be compiled. Raises CopyError.

    Of another revision it takes as long as at an installation; none where every module is Python.
    """
    if any((folder / PACKAGE).rglob("*.pyx")):
        _output([str(_COMPILE), "compile", str(folder), sys.executable])


def import_path(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which a new interpreter imports the copy instead of the package."""
    return {**environment, "PYTHONPATH": f"{folder}:{ROOT}"}


def _output(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise CopyError(f"{' '.join(command)} failed: {said[-2000:]}")
    return done.stdout
