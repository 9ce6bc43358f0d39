"""The live page in a real browser, against a real server: what it shows, and what it changes."""

from __future__ import annotations

import gc
import json
import re
import urllib.error
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from selenium.webdriver.common.keys import Keys

from cacheserver.server import Server
from cacheserver.settings import Settings
from cacheserver.store.eviction.policy import POLICIES
from tests.browser.conftest import Opener, Serve
from tests.browser.load import HOT_KEY, NAMESPACE, Load
from tests.browser.page import Page
from tests.support.contention import made_to_wait
from tests.support.inside import dicts_of, stripe_of
from tests.support.server import (
    ROOT,
    RunningServer,
    serve_command,
    start_server,
)
from tests.support.wire import Wire, request
from tests.test_embedded import running_example

TOKEN = "a-token-of-the-tests"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
PLAIN_ROWS = "#namespaces tbody tr"


def ask(server: RunningServer, method: str, path: str, body: object = None) -> Any:
    """Send a request; return the JSON of its answer, that of an error too."""
    data = None if body is None else json.dumps(body).encode()
    sent = Request(f"{server.url}{path}", data, {"Content-Type": "application/json"}, method=method)
    try:
        with urlopen(sent, timeout=20) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return json.loads(error.read())


def namespace(server: RunningServer, name: str) -> Any:
    """Return the configuration and the figures of a namespace, as the server tells them."""
    return ask(server, "GET", f"/v1/namespaces/{name}")


def fill(server: RunningServer, name: str, entries: int) -> None:
    """Put so many entries into a namespace."""
    with Wire(server) as wire:
        for number in range(entries):
            wire.send(request("PUT", f"/v1/kv/{name}/key-{number}", b"value")).answer()


def wait_for_row(page: Page, name: str) -> None:
    page.wait(lambda: name in page.texts("#namespaces .name"), f"a row for {name}")


def figure(page: Page, label: str) -> str:
    """Return what the tile of that label shows."""
    shown = dict(zip(page.texts(".tile h2"), page.texts(".tile .figure"), strict=True))
    return shown[label]


# What it shows.


def test_figures_change_under_load(server: RunningServer, open_page: Opener) -> None:
    """Traffic shows in the tiles, changes from one second to the next, and there is advice in words."""
    page = open_page(server.url)
    with Load(server):
        page.wait_until_live()
        page.wait(
            lambda: re.fullmatch(r"[1-9][\d.]*(\u202fk)?", figure(page, "Requests per second")),
            "requests per second above 0",
        )
        for _ in range(3):
            before = figure(page, "Requests per second")
            page.wait(lambda: figure(page, "Requests per second") != before, "another rate")  # noqa: B023
        page.wait(lambda: "%" in figure(page, "Hit ratio"), "a hit ratio")
        page.wait(lambda: "s" in figure(page, "Latency p99"), "a latency")
        page.wait(lambda: "%" in page.text("#wait-ratio"), "a wait ratio")
        page.wait(lambda: page.texts("#advice li"), "advice")
        page.wait(lambda: "waiting ·" in page.driver.title, "the wait ratio in the title")
    assert page.texts("#loops tbody td:first-child") == [
        "cacheserver-loop-0",
        "cacheserver-loop-1",
    ]
    info = ask(server, "GET", "/v1/info")
    facts = " ".join(page.texts("#facts li"))
    assert "2 threads" in facts
    assert f"GIL {'on' if info['gil_enabled'] else 'off'}" in facts


def test_charts_have_a_line_each_and_fit_the_window(
    server: RunningServer, open_page: Opener
) -> None:
    """Four charts are drawn, say what they show in words, and become as wide as there is room."""
    page = open_page(server.url)
    page.wait_until_live()
    widths = "return [...document.querySelectorAll('.plot canvas')].map((it) => it.clientWidth)"
    plots = "return [...document.querySelectorAll('.plot')].map((it) => it.clientWidth)"
    for width in (1360, 700):
        page.resize(width, 900)
        page.wait(lambda: page.script(widths) == page.script(plots), f"charts for {width} pixels")
    assert len(page.script(plots)) == 4
    for label in page.script(
        "return [...document.querySelectorAll('.plot')].map((it) => it.getAttribute('aria-label'))"
    ):
        assert re.match(r".+, the last five minutes; now .+", label)


def test_the_hot_key_is_named(server: RunningServer, open_page: Opener) -> None:
    """The key that all clients write comes first among the writes, with what its count may be off by."""
    page = open_page(server.url)
    with Load(server):
        page.wait_until_live()
        page.tab_to(page.text("#hot-tabs [aria-selected=true]"))
        page.press(Keys.END, Keys.ARROW_LEFT)
        assert page.focused() == "Writes"
        assert page.text("#hot-tabs [aria-selected=true]") == "Writes"
        row = "#hot tbody tr:first-child"
        page.wait(
            lambda: (
                page.texts(f"{row} .key") == [HOT_KEY]
                and re.fullmatch(r"[\d,]+ ± [\d,]+", page.text(f"{row} .count"))
            ),
            "the hot key, with a count and its margin",
        )
        assert page.text(f"{row} .where") == NAMESPACE
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == "Reads"
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == "Waits"


def test_waits_show_where_they_were(open_page: Opener) -> None:
    """Three waits at one stripe and one at another: the map, the tables and the hot keys say so."""
    server = Server(Settings(port=0, threads=1, slow_threshold=0.02))
    server.start()
    try:
        page = open_page(server.url)
        entries = dicts_of(server.store.namespace("things"))[0]

        def wait_for(key: str) -> int:
            def write() -> None:
                with urlopen(
                    Request(f"{server.url}/v1/kv/things/{key}", b"x", method="PUT"), timeout=20
                ):
                    pass

            return made_to_wait(server.store, "things", key, write).stripe

        hot = {wait_for("hot") for _ in range(3)}.pop()
        other = next(key for key in "abcdefgh" if stripe_of(entries, key) != hot)
        cold = wait_for(other)
        page.wait_until_live()
        page.wait(lambda: page.shown("#heat-body"), "the heat map")
        heats = "return [...document.querySelectorAll('#heat span')].map((it) => it.dataset.heat)"
        expected = ["0"] * 64
        expected[hot], expected[cold] = "7", "3"
        page.wait(lambda: page.script(heats) == expected, "one stripe hot, and one less so")

        assert page.texts("#hottest tbody td:first-child") == [str(hot), str(cold)]
        assert page.texts("#hottest tbody td:nth-child(2)") == ["3", "1"]
        assert page.texts("#hot .key") == ["hot", other]
        page.wait(lambda: len(page.texts("#slow tbody tr")) >= 4, "the slow operations")
        waited = [text for text in page.texts("#slow .waits") if "stripe" in text]
        assert [int(re.findall(r"for stripe (\d+),", text)[0]) for text in waited] == [
            cold,
            *[hot] * 3,
        ]

        page.tab_to(page.script("return document.querySelector('#heat span').ariaLabel"))
        page.press_with_control(Keys.END)
        assert page.focused().startswith("Stripe 63: ")
        page.press(Keys.HOME)
        assert page.focused().startswith("Stripe 48: ")
        page.press(*[Keys.ARROW_UP] * 3, *[Keys.ARROW_RIGHT] * (hot % 16))
        page.press(*[Keys.ARROW_DOWN] * (hot // 16))
        said = f"Stripe {hot}: 3 waits, 75\u202f% of all"
        assert page.focused() == said
        assert page.shown("#tip")
        assert page.text("#tip") == said
    finally:
        page.leave()
        server.stop(grace=5)
        gc.unfreeze()  # the server's sweeper had exempted all objects of this process


def test_hostile_names_stay_text(serve: Serve, open_page: Opener) -> None:
    """A key that is HTML, or would turn the line around, is shown as text in every place."""
    reversed_key = "safe\u202etxt.exe"
    server = serve("--threads", "1", "--slow-threshold", "0")
    page = open_page(server.url)
    with Wire(server) as wire:
        for key, conflicts in ((HOSTILE, 2), (reversed_key, 1)):
            target = f"/v1/kv/x.y/{quote(key)}"
            assert wire.send(request("PUT", target, b"x")).answer().status == 201
            for _ in range(conflicts):
                assert wire.send(request("PUT", f"{target}?cas=17", b"x")).answer().status == 412
    page.wait_until_live()
    page.wait(lambda: HOSTILE in page.texts("#slow .key"), "the key among the slow operations")
    page.find("#hot-tab-conflicts").click()
    shown = [HOSTILE, "safe\\u{202e}txt.exe"]
    page.wait(lambda: page.texts("#hot .key") == shown, "the keys among the conflicts")
    assert page.texts("#hot .count")[1:] == ["2", "1"]
    assert page.script("return document.images.length") == 1
    assert "owned" not in page.driver.title


def test_the_script_makes_no_html_of_text() -> None:
    """Nothing in the script parses HTML, whatever the tests above may miss."""
    script = (ROOT / "cacheserver/http/ui/app.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser", script)


# What it changes.


def test_a_namespace_is_cleared_by_keyboard_alone(server: RunningServer, open_page: Opener) -> None:
    """Tab leads to the button, the dialog names what goes, Escape and Cancel do nothing, Enter clears."""
    fill(server, "things", 25)
    fill(server, "others", 3)
    page = open_page(server.url)
    page.wait_until_live()
    wait_for_row(page, "things")

    page.tab_to("Clear things")
    page.press(Keys.ENTER)
    assert page.text("#clear-title") == "Clear things?"
    assert "All 25 entries of namespace things" in page.text("#clear-words")
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.shown("#clear"), "the dialog closes")
    assert page.focused() == "Clear things"

    page.press(Keys.ENTER)
    assert page.focused() == "Cancel"  # so that Enter twice destroys nothing
    page.press(Keys.ENTER)
    page.wait(lambda: not page.shown("#clear"), "the dialog closes")
    assert namespace(server, "things")["figures"]["entries"] == 25

    page.press(Keys.ENTER)
    page.tab_to("Clear 25 entries")
    page.press(Keys.ENTER)
    page.wait(lambda: not page.shown("#clear"), "the dialog closes")
    assert namespace(server, "things")["figures"]["entries"] == 0
    assert namespace(server, "others")["figures"]["entries"] == 3
    assert page.text("#note") == "things: 25 entries cleared"
    assert page.focused() == "Clear things"
    page.wait(
        lambda: "0" in page.texts(f"{PLAIN_ROWS} td:nth-child(2)"), "a row without any entries"
    )


def test_limits_are_changed(server: RunningServer, open_page: Opener) -> None:
    """What was changed in the dialog is what the server has, and nothing else was touched."""
    fill(server, "things", 25)
    page = open_page(server.url)
    page.wait_until_live()
    wait_for_row(page, "things")
    before = namespace(server, "things")["config"]

    page.tab_to("Limits of things")
    page.press(Keys.ENTER)
    assert page.text("#limits-title") == "Limits of things"
    assert page.focused() == "max_bytes"
    page.press("1.5m", Keys.TAB, "10")
    page.press(Keys.TAB, Keys.TAB, Keys.TAB)  # over the time to live and the policy
    # Somebody else changes another field meanwhile, which must not be undone.
    ask(server, "PATCH", "/v1/namespaces/things", {"require_cas": True, "default_ttl": 60})
    page.press("128", Keys.TAB, Keys.TAB)
    assert page.focused() == "Save"
    page.press(Keys.ENTER)
    page.wait(lambda: not page.shown("#limits"), "the dialog closes")
    assert page.text("#note") == "things: max_bytes, max_entries, stripes changed"
    after = namespace(server, "things")
    assert after["config"] == before | {
        "max_bytes": 1_572_864,
        "max_entries": 10,
        "stripes": 128,
        "require_cas": True,
        "default_ttl": 60,
    }
    assert after["figures"]["entries"] <= 10
    page.wait(
        lambda: any("of 10" in text for text in page.texts(f"{PLAIN_ROWS} td")), "the new limit"
    )

    page.press(Keys.ENTER)
    page.tab_to("max_entries")
    page.press_with_control("a")
    page.press(Keys.BACKSPACE, Keys.ENTER)
    page.wait(lambda: not page.shown("#limits"), "the dialog closes")
    assert namespace(server, "things")["config"]["max_entries"] is None


def test_the_policies_on_offer_are_all_there_are(server: RunningServer, open_page: Opener) -> None:
    """The dialog offers each policy of the store, and no other."""
    assert tuple(open_page(server.url).texts("#limits [name=policy] option")) == POLICIES


@pytest.mark.parametrize("wrong", ["-5", "many"])
def test_wrong_limits_show_the_words_of_the_server(
    server: RunningServer, open_page: Opener, wrong: str
) -> None:
    """The dialog stays open with what the server says, nothing is changed, and a second try works."""
    fill(server, "things", 5)
    page = open_page(server.url)
    page.wait_until_live()
    wait_for_row(page, "things")
    before = namespace(server, "things")["config"]
    value = int(wrong) if wrong.startswith("-") else wrong
    problem = ask(server, "PATCH", "/v1/namespaces/things", {"max_entries": value})

    page.tab_to("Limits of things")
    page.press(Keys.ENTER)
    page.tab_to("max_entries")
    page.press(wrong, Keys.ENTER)
    page.wait(lambda: page.shown("#limits .problem"), "the problem")
    assert page.text("#limits .problem") == f"{problem['detail']} (400)"
    assert "max_entries" in problem["detail"]
    assert namespace(server, "things")["config"] == before

    page.press_with_control("a")
    page.press("7", Keys.ENTER)
    page.wait(lambda: not page.shown("#limits"), "the dialog closes")
    assert namespace(server, "things")["config"] == before | {"max_entries": 7}
    assert [each for each in page.complaints() if "400" not in each] == []


def test_it_works_under_a_prefix(open_page: Opener) -> None:
    """Where an app of somebody else's has the cache under a prefix, the page finds all that it needs."""
    with running_example() as port:
        page = open_page(f"http://127.0.0.1:{port}/cache")
        page.wait_until_live()
        wait_for_row(page, "demo")
        page.tab_to("Clear demo")
        page.press(Keys.ENTER)
        page.press(Keys.TAB, Keys.ENTER)
        page.wait(lambda: "cleared" in page.text("#note"), "the answer of the server")
        page.leave()


# When something is wrong.


def test_a_token_is_asked_for(serve: Serve, open_page: Opener) -> None:
    """Without a token and with a wrong one it says so; the right one opens it, for this tab alone."""
    server = serve("--threads", "1", env={"CACHESERVER_TOKEN": TOKEN})
    page = open_page(server.url)
    page.wait(lambda: page.shown("#token-form"), "the form")
    assert "only with a token" in page.text("#token-why")
    assert not page.shown("main")
    assert page.focused() == "token"

    page.press("a-wrong-token-for-it", Keys.ENTER)
    page.wait(lambda: "does not know this token" in page.text("#token-why"), "the refusal")
    page.press(TOKEN, Keys.ENTER)
    page.wait_until_live()
    assert not page.shown("#token-form")
    assert page.script("return Object.values(sessionStorage)") == [TOKEN]
    assert page.script("return Object.values(localStorage)") == []
    assert TOKEN not in page.script("return document.documentElement.outerHTML")
    refused = page.complaints()
    assert len(refused) == 2
    assert all("ui/events" in each and "401" in each for each in refused)

    page.open()
    page.wait_until_live()
    assert not page.shown("#token-form")
    page.find("#forget").click()
    page.wait(lambda: page.shown("#token-form"), "the form")
    assert page.script("return Object.values(sessionStorage)") == []
    assert len(page.complaints()) == 1


def test_it_says_when_the_server_is_away_and_recovers(serve: Serve, open_page: Opener) -> None:
    """A server that dies is told of, since when and until the next try; one that is back is shown."""
    server = start_server(serve_command("--threads", "1"))
    try:
        server.wait_until_listening()
        fill(server, "before", 3)
        page = open_page(server.url)
        page.wait_until_live()
        wait_for_row(page, "before")
        server.kill()
        page.wait(lambda: page.shown("#away"), "the banner")
        assert page.text("#connection-text") == "away"
        assert "away" in page.driver.title
        page.wait(
            lambda: re.match(
                r"Since \d\d:\d\d:\d\d, for .+ is from before\. (Next try in \d+\u202fs|Trying now)\.",
                page.text("#away-when"),
            ),
            "since when, and the next try",
        )
        page.wait(lambda: page.text("#away-what") == "The server is away.", "what is wrong")
        assert "grayscale" in page.script(
            "return getComputedStyle(document.querySelector('main')).filter"
        )
        assert "before" in page.texts("#namespaces .name")  # the figures stay, and look old
        assert all("ui/events" in each for each in page.complaints())

        again = serve_command("--threads", "1", "--port", str(server.port))
        second = serve(command=again)
        fill(second, "after", 2)
        page.script("document.getElementById('retry').click()")  # it may be back already
        page.wait_until_live()
        wait_for_row(page, "after")
        assert not page.shown("#away")
        assert "before" not in page.texts("#namespaces .name")
        assert all("ui/events" in each for each in page.complaints())
    finally:
        server.kill()


def test_the_way_back_leads_to_a_live_page(server: RunningServer, open_page: Opener) -> None:
    """A page that was left for another one and is gone back to shows what happened meanwhile."""
    page = open_page(server.url)
    page.wait_until_live()
    page.leave()
    fill(server, "meanwhile", 1)
    page.driver.back()
    wait_for_row(page, "meanwhile")


# How it looks.


def test_a_phone_needs_no_sideways_scrolling(serve: Serve, open_page: Opener) -> None:
    """At 375 pixels nothing is wider than the screen, long names and dialogs included."""
    name = "n" * 64
    server = serve("--threads", "1", "--slow-threshold", "0")
    with Wire(server) as wire:
        target = f"/v1/kv/{name}/{'k' * 900}?cas=17"
        wire.send(request("PUT", target, b"x")).answer()
        wire.send(request("PUT", f"/v1/kv/{name}/key", b"x")).answer()
    page = open_page(server.url)
    page.resize(375, 720)
    page.wait_until_live()
    wait_for_row(page, name)
    wider = (
        "return [...document.querySelectorAll('body *')]"
        ".filter((it) => it.getBoundingClientRect().right > 375.5 && !it.closest('.clip, .where, .plot'))"
        ".map((it) => it.outerHTML.slice(0, 80))"
    )
    page.wait(lambda: page.texts("#slow .key"), "the slow operations")
    assert page.script("return document.documentElement.scrollWidth") == 375
    assert page.script(wider) == []
    for called in ("Limits of ", "Clear "):
        page.script(
            "document.querySelector(`[aria-label='${arguments[0]}']`).click()", called + name
        )
        assert page.script(wider) == []
        page.press(Keys.ESCAPE)


CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => {
  const [r, g, b] = channels(colour).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return (channels(colour)[3] ?? 1) === 1 ? colour : behind(element.parentElement);
};
const weak = [];
for (const element of document.querySelectorAll("body *")) {
  if (!element.checkVisibility() || ![...element.childNodes].some((it) => it.nodeType === 3 && it.data.trim())) continue;
  const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) weak.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return weak;
"""
"""Texts whose contrast is less than 4.5, which WCAG 2.2 asks for at level AA."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_that_of_the_system_until_one_is_chosen(
    server: RunningServer, open_page: Opener, scheme: str
) -> None:
    """Both themes can be read, and the one that was chosen is there when the page is loaded again."""
    fill(server, "things", 5)
    page = open_page(server.url)
    page.prefer(scheme)
    page.wait_until_live()
    wait_for_row(page, "things")

    def is_dark() -> bool:
        colour = page.script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 128

    assert is_dark() == (scheme == "dark")
    assert page.script(CONTRAST) == []
    page.tab_to("Light theme" if scheme == "dark" else "Dark theme")
    page.press(Keys.SPACE)
    assert is_dark() == (scheme == "light")
    assert page.script(CONTRAST) == []
    page.open()
    page.wait_until_live()
    assert is_dark() == (scheme == "light")
