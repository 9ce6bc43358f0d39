"""The types of compiled modules: each `.pyi` says what is there, all of it and nothing else.

mypy reads the stubs and can't look behind them. So names and parameters are compared with what the
compiled modules say of themselves, in both directions; the parameters of a constructor with its
source, since no compiled class tells them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from inspect import Parameter
from pathlib import Path
from types import ModuleType

import pytest

from cacheserver.store.integers import AtomicCounter

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "cacheserver").rglob("*.pyx"))

type Definition = ast.FunctionDef | ast.ClassDef | ast.AnnAssign
"""What a stub says of one name; an `AnnAssign` of a constant or an attribute."""


def module_of(source: Path) -> ModuleType:
    name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(name)


def definitions(body: list[ast.stmt]) -> dict[str, Definition]:
    """What a stub, or a class in it, defines, by name."""
    found: dict[str, Definition] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def stub_of(source: Path) -> dict[str, Definition]:
    tree = ast.parse(source.with_suffix(".pyi").read_text(encoding="utf-8"))
    return definitions(tree.body)


def public(names: Iterator[str] | dict[str, Definition]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


IMPORT = re.compile(r"^from [\w.]+ import (\([^)]*\)|.+)$", re.MULTILINE)


def own_names(module: ModuleType, code: str) -> Iterator[str]:
    """What the module defines itself: not what it imports."""
    imported = {name for names in IMPORT.findall(code) for name in re.findall(r"\w+", names)}
    for name, value in vars(module).items():
        home = getattr(value, "__module__", module.__name__)
        if not isinstance(value, ModuleType) and home == module.__name__ and name not in imported:
            yield name


type Shape = list[tuple[str, bool]]
"""The names of parameters, and whether each may be left out; stars are part of a name."""


def stubbed(function: ast.FunctionDef) -> Shape:
    """What a stub says of parameters, without self or cls."""
    given = function.args
    places = [*given.posonlyargs, *given.args]
    required = len(places) - len(given.defaults)
    shape = [(arg.arg, place >= required) for place, arg in enumerate(places)]
    if given.vararg:
        shape.append(("*" + given.vararg.arg, True))
    shape += [
        (arg.arg, default is not None)
        for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    if given.kwarg:
        shape.append(("**" + given.kwarg.arg, True))
    return [part for part in shape if part[0] not in {"self", "cls"}]


STARS: dict[object, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def compiled(function: object) -> Shape:
    """What a compiled function or method says of its parameters, likewise."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return [
        (
            STARS.get(parameter.kind, "") + parameter.name,
            parameter.kind in STARS or parameter.default is not Parameter.empty,
        )
        for parameter in parameters
        if parameter.name not in {"self", "cls"}
    ]


CLASS = r"^cdef class {}\b.*?(?=^\S)"
CONSTRUCTOR = re.compile(r"^    def (__c?init__)\((.*?)\)( noexcept)?:$", re.DOTALL | re.MULTILINE)
PARAMETER = re.compile(
    r"(\*{0,2})(?:[\w.]+\s+)*?(\w+)(?:\s+not\s+None|\s*:[^=]*)?\s*(=.*)?", re.DOTALL
)


def constructor(code: str, name: str) -> Shape:
    """What the source of a compiled class says of the parameters of `__init__` or `__cinit__`."""
    body = re.search(CLASS.format(name), code + "\n#", re.DOTALL | re.MULTILINE)
    assert body, f"no class {name} in the source"
    found = {part[1]: part[2] for part in CONSTRUCTOR.finditer(body[0])}
    given = found.get("__init__") or found.get("__cinit__") or "self"
    matches = [PARAMETER.fullmatch(part.strip()) for part in given.split(",") if part.strip()]
    shape = [
        (match[1] + match[2], bool(match[1] or match[3]))
        for match in matches
        if match and match[0] not in {"*", "/"}
    ]
    return shape[1:]


def is_property(function: ast.FunctionDef) -> bool:
    named = [node.id for node in function.decorator_list if isinstance(node, ast.Name)]
    return "property" in named


def differences(path: str, said: Definition, value: object, code: str) -> Iterator[str]:
    """What a stub says of a value, compiled from this code, that isn't so."""
    if isinstance(said, ast.ClassDef):
        if not isinstance(value, type):
            yield f"{path} is no class"
        else:
            yield from class_differences(path, said, value, code)
    elif isinstance(said, ast.AnnAssign) or is_property(said):
        if callable(value):
            yield f"{path} is a function, the stub has an attribute"
    elif not callable(value) and not isinstance(value, staticmethod | classmethod):
        yield f"{path} is no function"
    elif stubbed(said) != compiled(value):
        yield f"{path} takes {compiled(value)}, the stub says {stubbed(said)}"


def class_differences(path: str, said: ast.ClassDef, cls: type, code: str) -> Iterator[str]:
    stub = definitions(said.body)
    for name in public(iter(vars(cls))) - stub.keys():
        yield f"{path}.{name} is not in the stub"
    for name, part in stub.items():
        if name == "__init__":
            assert isinstance(part, ast.FunctionDef)
            if stubbed(part) != constructor(code, path):
                yield f"{path} is made from {constructor(code, path)}, the stub says {stubbed(part)}"
        elif not hasattr(cls, name):
            yield f"{path}.{name} is in the stub only"
        elif not name.startswith("__"):  # what those take is fixed by the language
            yield from differences(f"{path}.{name}", part, getattr(cls, name), code)


@pytest.mark.parametrize("source", [pytest.param(path, id=path.stem) for path in SOURCES])
def test_stub_says_what_is_compiled(source: Path) -> None:
    """Names, methods and parameters are the same in the stub and in the module."""
    module, stub, code = module_of(source), stub_of(source), source.read_text(encoding="utf-8")
    wrong = [f"{name} is not in the stub" for name in public(own_names(module, code)) - stub.keys()]
    for name, said in stub.items():
        if hasattr(module, name):
            wrong += differences(name, said, getattr(module, name), code)
        else:
            wrong.append(f"{name} is in the stub only")
    assert not wrong


STUB = """
class AtomicCounter:
    {0}
"""
NEARLY = {
    "def subtract(self) -> None: ...": "in the stub only",
    "def add(self, amount: int) -> int: ...": "the stub says [('amount', False)]",
    "def add(self, much: int = 1) -> int: ...": "the stub says [('much', True)]",
    "def add(self, amount: int = 1, *more: int) -> int: ...": "('*more', True)",
    "value: int\n    def exchange(self, number: int) -> int: ...": "[('number', False)]",
    "def value(self) -> int: ...": "is no function",
    "add: int": "is a function",
    "def __init__(self) -> None: ...": "made from [('value', True)]",
    "pass": "compare_and_set is not in the stub",
}


@pytest.mark.parametrize(("line", "word"), NEARLY.items(), ids=NEARLY.values())
def test_a_stub_that_is_wrong_is_found(line: str, word: str) -> None:
    """Each kind of difference is told, so that the test above can fail."""
    code = (ROOT / "cacheserver" / "store" / "integers.pyx").read_text(encoding="utf-8")
    (said,) = ast.parse(STUB.format(line)).body
    assert isinstance(said, ast.ClassDef)
    found = list(differences("AtomicCounter", said, AtomicCounter, code))
    assert any(word in difference for difference in found), found


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ("self", []),
        ("self, value=0", [("value", True)]),
        ("self, int64_t value = 0, *, bytes key not None", [("value", True), ("key", False)]),
        ("self, unsigned long long n, clock: Clock = None", [("n", False), ("clock", True)]),
        ("self, /, *rest, **named", [("*rest", True), ("**named", True)]),
        ("\n        self,\n        object one,\n    ", [("one", False)]),
    ],
)
def test_parameters_of_a_constructor_are_read(parameters: str, shape: Shape) -> None:
    """With C types or without, over several lines, of the class that is asked for."""
    code = "cdef class A:\n    def __cinit__(self, other):\n        pass\n\n"
    code += f"cdef class B:\n    cdef int x\n\n    def __cinit__({parameters}):\n        pass\n"
    assert constructor(code, "B") == shape
    assert constructor(code, "A") == [("other", False)]
