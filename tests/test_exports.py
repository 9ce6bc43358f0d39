"""What the package gives away, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cacheserver

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cacheserver"


def test_public_names_are_pinned() -> None:
    """A name is given away or taken back on purpose, with this list."""
    assert cacheserver.__all__ == [
        "CacheServerError",
        "Clock",
        "Condition",
        "Conflict",
        "Contention",
        "Deleted",
        "LockStatistics",
        "LockedCounter",
        "Missing",
        "Namespace",
        "OptimisticDict",
        "RWCache",
        "RWLock",
        "ShardedCounter",
        "Store",
        "StripedDict",
        "TimedLock",
        "Written",
        "__version__",
    ]


def test_public_names_are_there_and_described() -> None:
    """Each public name exists and, where it can, has a docstring of its own."""
    for name in cacheserver.__all__:
        public = getattr(cacheserver, name)
        assert name == "__version__" or public.__doc__, name


def test_nothing_public_is_forgotten() -> None:
    """A class that the front module imports is in its list."""
    classes = {name for name, value in vars(cacheserver).items() if isinstance(value, type)}
    assert classes <= set(cacheserver.__all__)


def test_version_is_that_of_the_project() -> None:
    """The version in the code is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cacheserver.__version__ == project["version"]


def test_import_pulls_in_no_server() -> None:
    """The library can be used without the event loop, the server and the metrics library."""
    script = "import sys, cacheserver; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint(
        {
            "cereggii",
            "asyncio",
            "starlette",
            "uvicorn",
            "uvloop",
            "httptools",
            "prometheus_client",
            "msgspec",
        }
    )


def imported(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem) for path in sorted((PACKAGE / "store").rglob("*.py"))],
)
def test_engine_imports_the_standard_library_only(path: Path) -> None:
    """A module of the engine needs itself, errors, the clock and the standard library.

    One, which nothing else of the package imports, uses another library where it is installed.
    """
    allowed: tuple[str, ...] = ("cacheserver.store.", "cacheserver.errors", "cacheserver.clock")
    if path.name == "atomics.py":
        allowed += ("cereggii",)
    for module in imported(path):
        top = module.partition(".")[0]
        assert top in sys.stdlib_module_names or module.startswith(allowed), module
        assert top not in {"asyncio", "socket", "http"}, module


COMPILED = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".pyx", ".pxd"})
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", re.MULTILINE)


def imported_when_compiled(path: Path) -> set[str]:
    """The modules that a Cython file imports or cimports, but for Cython's own declarations."""
    found = {match[1] or match[2] for match in IMPORT.finditer(path.read_text(encoding="utf-8"))}
    return {name for name in found if name.partition(".")[0] not in {"cython", "cpython", "libc"}}


@pytest.mark.parametrize("path", COMPILED, ids=[path.name for path in COMPILED])
def test_compiled_modules_import_downwards(path: Path) -> None:
    """import-linter does not read them: they import from their own layer and lower ones only."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [
        layer.replace("(", "").replace(")", "").split(" : ")
        for layer in contract["contracts"][0]["layers"]
    ]
    rank = {name: place for place, names in enumerate(layers) for name in names}

    def rank_of(module: str) -> int:
        top = ".".join(module.split(".")[:2])
        assert top in rank, f"{module} is in no layer of pyproject.toml"
        return rank[top]

    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for module in imported_when_compiled(path):
        if module.startswith("cacheserver."):
            assert rank_of(module) >= rank_of(own), f"{own} imports {module}"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.name) for path in COMPILED if PACKAGE / "store" in path.parents],
)
def test_compiled_engine_imports_the_standard_library_only(path: Path) -> None:
    """The same rule as for the engine's Python."""
    for module in imported_when_compiled(path):
        top = module.partition(".")[0]
        allowed = ("cacheserver.store.", "cacheserver.errors", "cacheserver.clock")
        assert top in sys.stdlib_module_names or module.startswith(allowed), module
        assert top not in {"asyncio", "socket", "http"}, module


@pytest.mark.parametrize("module", ["errors", "clock"])
def test_ground_floor_imports_nothing_of_the_package(module: str) -> None:
    """Errors and the clock stand on the standard library alone."""
    for name in imported(PACKAGE / f"{module}.py"):
        assert name.partition(".")[0] in sys.stdlib_module_names
