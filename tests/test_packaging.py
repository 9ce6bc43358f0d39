"""What is published, and what a checkout compiles: by `python -m build`, and by setup.py itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import build_backend
from scripts.build_backend import find_compiler

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
NEEDED = ["setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "scripts"]

pytestmark = [
    pytest.mark.skipif(find_compiler() is None, reason="this machine has no C compiler"),
    pytest.mark.timeout(600),  # all is compiled once more, on a machine that may be busy
]


def sources(*suffixes: str) -> set[str]:
    """The files of the package with these endings, as they lie in the checkout."""
    found = (path.relative_to(ROOT) for path in (ROOT / "cacheserver").rglob("*"))
    return {str(path) for path in found if path.name.endswith(suffixes)}


def run(folder: Path, *arguments: str) -> str:
    """What a Python prints that runs in this folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@dataclass(frozen=True)
class Published:
    """What `python -m build` made: what is in it, and where the wheel lies."""

    source: set[str]
    wheel: set[str]
    path: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A source distribution of this checkout, and a wheel made from that."""
    folder = tmp_path_factory.mktemp("published")
    checkout, dist = folder / "checkout", folder / "dist"
    for name in ["cacheserver", "tests", "benchmarks", *NEEDED]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name)
        else:
            shutil.copy(ROOT / name, checkout / name)
    run(checkout, "-m", "build", "--no-isolation", "--outdir", str(dist))
    (archive,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    with tarfile.open(archive) as tar:
        source = {name.partition("/")[2] for name in tar.getnames() if "/" in name}
    with zipfile.ZipFile(wheel) as zipped:
        return Published(source, set(zipped.namelist()), wheel)


def test_source_distribution_holds_what_is_compiled(published: Published) -> None:
    """All sources, Python's and Cython's, and what they are built with; nothing that was built."""
    wanted = sources(".py", ".pyi", ".pyx", ".pxd", ".h", ".typed", ".js", ".css", ".html")
    assert wanted <= published.source
    assert {"setup.py", "pyproject.toml", "scripts/build_backend.py"} <= published.source
    assert not {name for name in published.source if name.endswith((".so", ".c", ".o", ".pyc"))}
    assert not {name for name in published.source if name.startswith(("tests/", "benchmarks/"))}


def test_wheel_holds_what_is_run(published: Published) -> None:
    """Python, types, pages and compiled files; no sources of these, no tests, no benchmarks."""
    wanted = sources(".py", ".pyi", ".typed", ".js", ".css", ".html")
    compiled = {name.removesuffix(".pyx") + SUFFIX for name in sources(".pyx")}
    assert compiled
    assert wanted | compiled <= published.wheel
    assert not {name for name in published.wheel if name.endswith((".pyx", ".pxd", ".h", ".c"))}
    folders = {name.partition("/")[0] for name in published.wheel}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"cacheserver"}


def test_wheel_runs_and_leaves_the_gil_alone(published: Published, tmp_path: Path) -> None:
    """Every compiled module of the wheel is imported from there, and turns no GIL on."""
    shutil.unpack_archive(published.path, tmp_path, "zip")
    modules = [name.removesuffix(".pyx").replace("/", ".") for name in sources(".pyx")]
    script = f"""
import importlib, sys
sys.path.insert(0, {str(tmp_path)!r})
before = sys._is_gil_enabled()
for name in {modules!r}:
    assert importlib.import_module(name).__file__.startswith({str(tmp_path)!r}), name
assert sys._is_gil_enabled() == before
"""
    run(tmp_path, "-I", "-W", "error", "-c", script)


# A compiler


def test_a_compiler_is_asked_for_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With nothing on the PATH a build needs ziglang, with any usual compiler it doesn't."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "gone")
    monkeypatch.setattr(sysconfig, "get_config_var", {"CC": "gone, too -pthread"}.get)

    def asked_for() -> list[str]:
        return build_backend._requirements(lambda _settings: ["cython"], None)

    assert find_compiler() is None
    assert [name.partition(">")[0] for name in asked_for()] == ["cython", "ziglang"]
    clang = tmp_path / "clang"
    clang.touch(mode=0o755)
    assert find_compiler() == "clang"
    assert asked_for() == ["cython"]
    monkeypatch.setenv("CC", f"{clang} -m64")
    assert find_compiler() == f"{clang} -m64"


# A checkout


NUMBER = "cdef extern from 'number.h':\n    int NUMBER\n\ndef number():\n    return NUMBER\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of a package with two compiled modules, one of which includes a header."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    package = tmp_path / "cacheserver" / "store"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'cacheserver'\nversion = '0'\n"
        "[tool.setuptools]\npackages = ['cacheserver', 'cacheserver.store']\n"
    )
    for path in (package.parent, package):
        (path / "__init__.py").touch()
    (package / "number.pyx").write_text(NUMBER)
    (package / "number.h").write_text("#define NUMBER 1\n")
    (package / "other.pyx").touch()  # what is translated alone needs no process of its own
    return tmp_path


def compile_in(checkout: Path) -> str:
    return run(checkout, "setup.py", "build_ext", "--inplace")


def number_in(checkout: Path) -> str:
    script = "from cacheserver.store.number import number; print(number())"
    return run(checkout, "-c", script).strip()


def touch_later(path: Path) -> None:
    """As if the file had been written ten seconds from now: clocks of file systems are coarse."""
    stat = path.stat()
    os.utime(path, (stat.st_atime, stat.st_mtime + 10))


def test_checkout_compiles_what_has_changed(checkout: Path) -> None:
    """The second time nothing is compiled, and after a change of a header what includes it."""
    signs = {"Cythonizing", "building 'cacheserver.store.number'"}
    first = compile_in(checkout)
    assert {sign for sign in signs if sign in first} == signs
    assert number_in(checkout) == "1"
    again = compile_in(checkout)
    assert not {sign for sign in signs if sign in again}
    header = checkout / "cacheserver" / "store" / "number.h"
    header.write_text("#define NUMBER 2\n")
    touch_later(header)
    changed = compile_in(checkout)
    assert number_in(checkout) == "2"
    assert "building 'cacheserver.store.other'" not in changed


def test_checkout_keeps_nothing_of_a_source_that_is_gone(checkout: Path) -> None:
    """What was compiled from it would be imported in place of a module in Python."""
    compile_in(checkout)
    package = checkout / "cacheserver" / "store"
    (package / "number.pyx").unlink()
    (package / "number.py").write_text("def number():\n    return 3\n")
    compile_in(checkout)
    assert not list(package.glob("number.*.so"))
    assert list(package.glob("other.*.so"))
    assert number_in(checkout) == "3"


def test_wheel_holds_nothing_of_an_earlier_one(checkout: Path) -> None:
    """A module that is gone is not in what is built next, from the same folder."""
    module = checkout / "cacheserver" / "gone.py"
    module.touch()
    run(checkout, "setup.py", "build")
    (left,) = (checkout / "build").rglob("gone.py")
    module.unlink()
    run(checkout, "setup.py", "build")
    assert not left.exists()
    assert left.with_name("__init__.py").exists()
