"""The build backend: that of setuptools, and a C compiler where the machine has none.

The compiler is `$CC`, else the one that the interpreter was built with, else one that is found under
a usual name, else the package ziglang, which holds a whole one and needs nobody's permission.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def find_compiler() -> str | None:
    """Return the command of a C compiler of this machine, or None."""
    built_with = sysconfig.get_config_var("CC") or ""
    for command in (os.environ.get("CC", ""), built_with, "cc", "gcc", "clang"):
        if command and shutil.which(shlex.split(command)[0]):
            return command
    return None


def _zig() -> str:
    import ziglang  # only where it was asked for

    zig = shlex.quote(str(Path(ziglang.__file__).with_name("zig")))
    return f"{zig} cc -mcpu=baseline"  # or the result would run on this processor only


def _build(backend: Callable[..., str], *arguments: Any) -> str:
    os.environ["CC"] = find_compiler() or _zig()
    return backend(*arguments)


def _requirements(backend: Callable[..., list[str]], config_settings: Any) -> list[str]:
    return backend(config_settings) + ([] if find_compiler() else ["ziglang>=0.15"])


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what building a wheel takes."""
    return _requirements(build_meta.get_requires_for_build_wheel, config_settings)


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Return what an editable installation takes."""
    return _requirements(build_meta.get_requires_for_build_editable, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel and return its name."""
    return _build(build_meta.build_wheel, wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Compile beside the sources, and build a wheel that refers to them."""
    return _build(build_meta.build_editable, wheel_directory, config_settings, metadata_directory)
