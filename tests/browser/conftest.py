"""One Chromium for all tests of the page; what it complains of fails the test."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack

import pytest
from selenium import webdriver

from tests.browser.page import Page, browser
from tests.support.server import RunningServer, running_server

type Serve = Callable[..., RunningServer]
type Opener = Callable[[str], Page]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Generator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def serve() -> Generator[Serve]:
    """Start servers as `running_server` does; they run until the browser has left their page."""
    with ExitStack() as stack:
        yield lambda *flags, **options: stack.enter_context(running_server(*flags, **options))


@pytest.fixture
def server(serve: Serve) -> RunningServer:
    return serve("--threads", "2")


@pytest.fixture
def open_page(chromium: webdriver.Chrome, serve: Serve) -> Generator[Opener]:
    """Open the page of the server with that URL; at the end nothing may have been complained of.

    A test that provokes complaints takes them with `Page.complaints()` and looks at them itself.
    """
    opened: list[Page] = []

    def opener(url: str) -> Page:
        opened.append(Page(chromium, url))
        return opened[-1]

    try:
        yield opener
        for page in opened:
            assert page.complaints() == []
    finally:
        for page in opened:
            page.leave()
