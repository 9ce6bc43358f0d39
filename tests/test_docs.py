"""What the docs promise is what there is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import cacheserver
from cacheserver import settings as settings_module
from cacheserver.clock import Clock
from cacheserver.http import create_app
from cacheserver.http.problems import KINDS
from cacheserver.http.routes import ROUTES
from cacheserver.metrics import Metrics, make_registry, render
from cacheserver.settings import SETTINGS, Settings
from cacheserver.slowlog import SLOW_THRESHOLD
from cacheserver.store.store import Store
from cacheserver.store.way import MAX_STRIPES
from tests.conftest import Maker
from tests.support.contention import made_to_wait
from tests.support.http_client import AppClient
from tests.support.server import ROOT, running_server

OPERATING = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
HTTP = (ROOT / "docs/http.md").read_text(encoding="utf-8")
SETTING_ROW = re.compile(r"^\|(?: `(--[a-z-]+)`)? \| `(CACHESERVER_[A-Z_]+)` \|", re.MULTILINE)
METRIC_CELL = re.compile(
    r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| (?:counter|gauge|histogram|info) \|", re.MULTILINE
)


def test_settings_are_all_in_the_docs_and_no_others() -> None:
    """The table in docs/operating.md has a row for each setting, with its flag and variable."""
    documented = {(flag, variable) for flag, variable in SETTING_ROW.findall(OPERATING)}
    existing = {(s.flag if s.has_flag else "", s.variable) for s in SETTINGS}
    assert documented == existing


def test_metrics_of_ours_are_all_in_the_docs_and_no_others() -> None:
    """The table in docs/operating.md names every family that a scrape gives."""
    cells = ", ".join(METRIC_CELL.findall(OPERATING)).replace("`", "").split(", ")
    store = Store()
    store.namespace("things")
    text, _ = render(make_registry(store, Metrics()))
    families = re.findall(r"^# TYPE cacheserver_(\w+) ", text.decode(), re.MULTILINE)
    assert set(cells) == set(families)


def test_routes_are_all_in_the_docs() -> None:
    """docs/http.md names the path of every route."""
    assert [route.path for route in ROUTES if route.path not in HTTP] == []


def test_problems_are_all_in_the_docs() -> None:
    """docs/http.md names every kind of problem that a client's mistake can get."""
    slugs = {kind.slug for kind in KINDS.values() if kind.slug != "invalid-input"}
    assert [slug for slug in sorted(slugs) if f"`{slug}`" not in HTTP] == []


def test_changelog_has_the_version() -> None:
    """CHANGELOG.md has a section for the version that the package says it is."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(cacheserver.__version__)}\b", changelog, re.MULTILINE)


def test_links_in_the_docs_lead_somewhere() -> None:
    """Every relative link in a Markdown file names a file that is there."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    broken = [
        (page.name, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert len(pages) > 5
    assert broken == []


def test_settings_and_the_library_have_the_same_defaults() -> None:
    """A Store made by hand is as large as the server's, with as many stripes, and slow is as slow."""
    assert settings_module.MAX_STRIPES == MAX_STRIPES
    settings, store = Settings(), Store()
    assert settings.slow_threshold == SLOW_THRESHOLD
    assert (settings.max_memory, settings.max_value_size, settings.max_namespaces) == (
        store.max_memory,
        store.max_value_size,
        store.max_namespaces,
    )


def test_docs_do_not_name_files_that_are_gone() -> None:
    """Each source file that docs/tour.md names exists."""
    tour = (ROOT / "docs/tour.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+\.py)`", tour))
    folders = (Path(ROOT / "cacheserver"), Path(ROOT / "benchmarks"))
    there = {path.name for folder in folders for path in folder.rglob("*.py")}
    assert named
    assert named <= there


def transcript(text: str) -> list[tuple[str, str]]:
    """The commands of the console blocks, each with what it prints."""
    return [
        (command, output.rstrip("\n"))
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for command, _, output in (
            part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        )
    ]


VERSION = re.compile(r'(?m)(?:^etag: "|"version":)(\d+)')
TIME = re.compile(r"(?<=app;dur=)[0-9.]+")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl to type the lines into")
@pytest.mark.parametrize(("page", "count"), [("README.md", 5), ("docs/http.md", 16)])
def test_curl_lines_print_what_the_docs_say(page: str, count: int) -> None:
    """Typed one after the other, they print what stands below them, but for versions, times and two headers."""
    lines = transcript((ROOT / page).read_text(encoding="utf-8"))
    assert len(lines) == count
    versions: dict[str, str] = {}  # what the page says to what the server gave
    with running_server("--stripes", "64") as server:
        for command, expected in lines:
            for written, given in versions.items():
                command = command.replace(written, given)
            command = command.replace("localhost:8080", f"localhost:{server.port}")
            done = subprocess.run(shlex.split(command), capture_output=True, check=True, text=True)
            said = re.sub(r"(?m)^(date|server): .*\n", "", done.stdout.replace("\r\n", "\n"))
            for written, given in zip(
                VERSION.findall(expected), VERSION.findall(said), strict=True
            ):
                assert versions.setdefault(written, given) == given
                expected = expected.replace(written, given)
            assert TIME.sub("*", said).rstrip("\n") == TIME.sub("*", expected)


FIGURES = re.compile(r"^`GET (/v1/[a-z]+)`, [^\n]*:\n\n```json\n(.*?)```", re.MULTILINE | re.DOTALL)


def test_figures_in_the_docs_have_the_fields_that_there_are(make: Maker) -> None:
    """The answers that docs/http.md shows have the fields of real ones, and nothing that is not there."""
    store = make.store(clock=Clock(), stripes=4)
    client = AppClient(create_app(store, metrics=Metrics(slow_threshold=0)))
    for _ in range(1000):
        client.request("PUT", "/v1/kv/sessions/visits")
        client.request("GET", "/v1/kv/sessions/visits")
    client.request("PUT", "/v1/kv/sessions/visits?cas=1")
    made_to_wait(
        store, "sessions", "visits", lambda: client.request("PUT", "/v1/kv/sessions/visits")
    )
    shown = FIGURES.findall(HTTP)
    assert [target for target, _ in shown] == ["/v1/locks", "/v1/hotkeys", "/v1/slowlog"]
    for target, text in reversed(shown):  # the wait is the latest slow operation
        assert fields(json.loads(text)) == fields(client.request("GET", target).json()), target
    client.close()


def fields(told: object) -> object:
    """What JSON has for fields, in order; of a list those of its first item."""
    if isinstance(told, dict):
        return [(name, fields(value)) for name, value in told.items()]
    if isinstance(told, list):
        assert told, "an empty list shows nothing"
        return [fields(told[0])]
    return ...
