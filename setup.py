"""What is compiled: every `.pyx` of the package, by Cython. All else is in pyproject.toml."""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
FLAGS = ["-O2", "-fno-strict-aliasing", "-Wno-unreachable-code"]


def extensions() -> list[Extension]:
    """Return one extension for each `.pyx`."""
    sources = sorted(path.relative_to(ROOT) for path in ROOT.glob("cacheserver/**/*.pyx"))
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            extra_compile_args=FLAGS,
            include_dirs=["cacheserver/store"],
        )
        for source in sources
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        build_dir="build/c",
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": True,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "auto_pickle": False,
        },
    ),
)
