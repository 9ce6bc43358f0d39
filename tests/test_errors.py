"""The tree of errors: what is drawn is what there is."""

from __future__ import annotations

import re

from cacheserver import errors
from cacheserver.errors import CacheServerError
from cacheserver.http import errors as http_errors


def drawn_tree() -> dict[str, str]:
    """Each error of the drawing with the one that it hangs below."""
    assert errors.__doc__ is not None
    branches: list[tuple[int, str]] = []
    parents = {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"^    ([ |`-]*)([A-Z]\w+)", line)
        if found is None:
            continue
        depth, name = len(found[1]) // 4, found[2]
        branches = [(d, n) for d, n in branches if d < depth]
        parents[name] = branches[-1][1] if branches else ""
        branches.append((depth, name))
    return parents


def all_errors(root: type[CacheServerError] = CacheServerError) -> list[type[CacheServerError]]:
    """The errors of the package; tests derive some of their own."""
    children = [c for c in root.__subclasses__() if c.__module__.startswith("cacheserver.")]
    return [root, *(error for child in children for error in all_errors(child))]


def test_drawing_is_the_tree() -> None:
    """Every error is drawn once, below the class that it is derived from."""
    real = {
        error.__name__: error.__bases__[0].__name__ if error is not CacheServerError else ""
        for error in all_errors()
        if error.__module__ == errors.__name__
    }
    assert drawn_tree() == real


def test_drawing_tells_the_second_base() -> None:
    """A second base, as in (also a ValueError), is drawn where there is one."""
    assert errors.__doc__ is not None
    for error in all_errors():
        also = [base.__name__ for base in error.__bases__[1:]]
        said = re.findall(rf"{error.__name__} \(also an? (\w+)\)", errors.__doc__)
        assert said == also, error


def test_every_error_has_a_sentence_of_its_own() -> None:
    """Each class tells in its docstring when it is raised."""
    sentences = [error.__doc__ for error in all_errors()]
    assert all(sentences)
    assert len(set(sentences)) == len(sentences)


def test_all_errors_of_the_package_are_defined_in_two_places() -> None:
    """No error hides in another module than that of the tree and that of its HTTP branch."""
    assert {error.__module__ for error in all_errors()} == {errors.__name__, http_errors.__name__}
