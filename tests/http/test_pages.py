"""The files of the live page, as the app reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacheserver.errors import StartupError
from cacheserver.http.pages import Pages
from cacheserver.http.routes import PAGE, PAGE_FILES


def folder(path: Path, *files: str) -> Path:
    """A folder with these files, each of which holds its name."""
    for file in files:
        (path / file).write_bytes(file.encode())
    return path


def test_files_are_read_once(tmp_path: Path) -> None:
    """What changes on the disk later changes nothing."""
    pages = Pages(folder(tmp_path, "index.html", *PAGE_FILES))
    folder(tmp_path, "index.html").joinpath("index.html").write_bytes(b"other")
    assert pages.answer(PAGE, None).body == b"index.html"
    for name in PAGE_FILES:
        assert pages.answer(f"{PAGE}/{name}", None).body == name.encode()


def test_another_content_has_another_tag(tmp_path: Path) -> None:
    """So that a browser takes the new one after an update."""
    folder(tmp_path, "index.html", *PAGE_FILES)
    before = dict(Pages(tmp_path).answer(PAGE, None).raw_headers)[b"etag"]
    assert dict(Pages(tmp_path).answer(PAGE, None).raw_headers)[b"etag"] == before
    (tmp_path / "index.html").write_bytes(b"new")
    answer = Pages(tmp_path).answer(PAGE, before)
    assert (answer.status_code, answer.body) == (200, b"new")


@pytest.mark.parametrize("missing", ["index.html", *PAGE_FILES])
def test_a_missing_file_is_told_at_the_start(tmp_path: Path, missing: str) -> None:
    """And not by the first request for it; the message names it."""
    folder(tmp_path, *({"index.html", *PAGE_FILES} - {missing}))
    with pytest.raises(StartupError, match=missing):
        Pages(tmp_path)
