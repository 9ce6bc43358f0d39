"""The live page in a headless Chromium, as a test sees and uses it.

Guarantees:
- Chromium and chromedriver are gone when the `with` block of `browser()` ends, however it ends.
- Nothing is waited for without a deadline, and nothing by sleeping.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

DEADLINE: Final = 30.0
_CHROMIUMS: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--hide-scrollbars",
)


@contextlib.contextmanager
def browser(profile: Path) -> Generator[webdriver.Chrome]:
    """Start Chromium with an empty profile. Skips where there is none, and fails where CI is set."""
    service = Service(_tool("chromedriver"), popen_kw={"start_new_session": True})
    options = webdriver.ChromeOptions()
    options.binary_location = _tool(*_CHROMIUMS)
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        driver = webdriver.Chrome(options, service)
        try:
            driver.set_page_load_timeout(DEADLINE)
            driver.set_script_timeout(DEADLINE)
            yield driver
        finally:
            driver.quit()
    finally:
        process = getattr(service, "process", None)
        if process is not None:
            # Chromium too, where chromedriver could not end it: both are of the session started here.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tool(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing = f"{names[0]} is not installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


class Page:
    """The page, in a browser that may have shown others before."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.reset()
        self.open()

    def reset(self) -> None:
        """Give the browser its usual size and colours, and forget what it logged."""
        self.resize(1360, 900)
        self.prefer("light")
        self.driver.get_log("browser")

    def open(self) -> None:
        """Load the page, or load it again."""
        self.driver.get(f"{self.url}/ui")

    def leave(self) -> None:
        """Show nothing, so that no stream stays open."""
        self.driver.get("about:blank")

    def resize(self, width: int, height: int) -> None:
        """Make the window so large, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Have the system ask for `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def script(self, body: str, *arguments: object) -> Any:
        """Run the body of a function in the page, and return its result."""
        return self.driver.execute_script(body, *arguments)

    def find(self, css: str) -> WebElement:
        """Return the only element that the selector finds."""
        (element,) = self.driver.find_elements(By.CSS_SELECTOR, css)
        return element

    def texts(self, css: str) -> list[str]:
        """Return the text of each element that the selector finds, shown or not."""
        found: list[str] = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)",
            css,
        )
        return found

    def text(self, css: str) -> str:
        """Return the text of the only element that the selector finds."""
        (text,) = self.texts(css)
        return text

    def shown(self, css: str) -> bool:
        """Tell whether the only element that the selector finds can be seen."""
        return self.find(css).is_displayed()

    def wait[T](self, probe: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
        """Return the first true result of `probe`; fail with `what` when it stays false."""
        wait = WebDriverWait(
            self.driver,
            seconds,
            poll_frequency=0.05,
            ignored_exceptions=[StaleElementReferenceException],
        )
        return wait.until(lambda _: probe(), f"not within {seconds:g} s: {what}")

    def wait_until_live(self) -> None:
        """Wait until it shows figures, and is connected."""
        self.wait(lambda: self.text("#connection-text") == "live", "the page is live")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def press_with_control(self, key: str) -> None:
        """Press a key while Control is held."""
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key).key_up(
            Keys.CONTROL
        ).perform()

    def focused(self) -> str:
        """Return what the focused element is called: its label, else its text or its name."""
        called: str = self.script(
            "const it = document.activeElement;"
            "return it.getAttribute('aria-label') ?? (it.textContent.trim() || it.name || it.id)"
        )
        return called

    def tab_to(self, called: str) -> None:
        """Press Tab until what is called so has the focus."""
        seen = []
        for _ in range(200):
            if self.focused() == called:
                return
            self.press(Keys.TAB)
            seen.append(self.focused())
        raise AssertionError(f"Tab never led to {called!r}, but to {seen}")

    def complaints(self) -> list[str]:
        """Return what the browser logged since it was last asked: errors, failed requests, violations."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
