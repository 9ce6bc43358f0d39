"""What is compiled: every `.pyx` of the package, by Cython. All else is in pyproject.toml.

In a checkout (an editable installation) the compiled files lie beside their sources, named after
the interpreter that they are for, and only what has changed is compiled again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
PACKAGE = "cacheserver"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# More for the compiler and the linker: what scripts/sanitize asks for. It gets folders of its own.
MORE_FLAGS = os.environ.get("CACHESERVER_CFLAGS", "").split()
BUILD = Path("build", *(["sanitize"] if MORE_FLAGS else []), sysconfig.get_config_var("SOABI"))
# C files are the same for every interpreter, but not for every Cython and every set of directives.
C_FILES = Path("build", "c", hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8])
C_FILES /= importlib.metadata.version("cython")
FLAGS = ["-O2", "-fno-strict-aliasing", "-Wno-unreachable-code"]
DIRECTIVES = {
    "language_level": 3,
    "freethreading_compatible": True,
    "cdivision": True,
    "auto_pickle": False,  # what is inside of an object is nobody's business
    # Cython's own function objects count their references: threads that call the same method of
    # objects of their own would still meet in it. Those of the interpreter are spared that.
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
}
PROCESSORS = os.process_cpu_count() or 1


def extensions() -> list[Extension]:
    """Return one extension for each `.pyx`."""
    sources = sorted(path.relative_to(ROOT) for path in ROOT.glob(f"{PACKAGE}/**/*.pyx"))
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            depends=["setup.py"],
            extra_compile_args=FLAGS + MORE_FLAGS,
            extra_link_args=MORE_FLAGS,
            include_dirs=[f"{PACKAGE}/store"],
        )
        for source in sources
    ]


class Build(build):
    """Puts together what is installed, and nothing that an earlier one left."""

    def run(self) -> None:
        """Begin with an empty folder: what it holds is installed, modules that are gone too."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildExtensions(build_ext):
    """Translates to C and compiles, both side by side; in a checkout only what has changed."""

    def finalize_options(self) -> None:
        """Keep what is made for a checkout, which setuptools makes in a temporary folder."""
        super().finalize_options()
        self.parallel = PROCESSORS
        if self.inplace:
            self.build_lib = str(BUILD / "inplace")
            self.build_temp = str(BUILD / "objects")

    def run(self) -> None:
        """Compile, and take away what shadows a module of a source that is no longer there."""
        super().run()
        if self.inplace:
            for path in ROOT.glob(f"{PACKAGE}/**/*{SUFFIX}"):
                if not path.with_name(path.name.removesuffix(SUFFIX) + ".pyx").exists():
                    path.unlink()

    def build_extensions(self) -> None:
        """Translate first. Not earlier: a source distribution would get the C files too."""
        translated = cythonize(
            list(self.extensions),
            build_dir=str(C_FILES),
            nthreads=PROCESSORS,
            compiler_directives=DIRECTIVES,
        )
        made = {extension.name: extension for extension in translated}
        for extension in self.extensions:
            extension.sources = made[extension.name].sources
            extension.depends = made[extension.name].depends
        super().build_extensions()


if __name__ == "__main__":  # processes that translate may import this file
    setup(
        ext_modules=extensions(),
        cmdclass={"build": Build, "build_ext": BuildExtensions},
        options={"build": {"build_base": str(BUILD)}},
    )
