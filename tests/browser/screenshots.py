"""Take the pictures of the docs: `python -m tests.browser.screenshots docs` writes docs/ui-*.png.

A server, a load with one hot key and some refused writes, and what the page shows after `--seconds`.
"""

from __future__ import annotations

import argparse
import base64
import random
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.browser.load import HOT_KEY, NAMESPACE, Load, one_in_four_is_hot
from tests.browser.page import Page, browser
from tests.support.server import running_server
from tests.support.wire import request

_PICTURES: Final = (
    ("ui-light", "light", 1360, 1620),
    ("ui-dark", "dark", 1360, 980),
    ("ui-phone", "light", 375, 1560),
)
"""Name, theme, width and height."""


def requests_of_a_shop(generator: random.Random) -> bytes:
    """Return a read, a write of the hot key, or one of carts, some of which come too late."""
    chance = generator.random()
    if chance < 0.6:
        return request("POST", f"/v1/incr/{NAMESPACE}/{HOT_KEY}")
    if chance < 0.75:
        cart = int(400 * generator.random() ** 3)
        condition = "?cas=1" if generator.random() < 0.05 else ""
        return request("PUT", f"/v1/kv/carts/cart:{cart}{condition}", b"c" * 300)
    return one_in_four_is_hot(generator)


def main() -> None:
    """Read the arguments and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--threads", default="2")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as profile,
        browser(Path(profile)) as driver,
        running_server("--threads", given.threads, "--max-memory", "64m") as server,
        Load(server, requests_of_a_shop, clients=given.clients, together=2, pause=0),
    ):
        time.sleep(given.seconds)  # the charts show five minutes
        page = Page(driver, server.url)
        for name, theme, width, height in _PICTURES:
            page.prefer(theme)
            page.resize(width, height)
            page.open()
            page.wait_until_live()
            page.wait(lambda: HOT_KEY in page.text("#advice"), "advice about the hot key")
            page.wait(lambda: HOT_KEY in page.texts("#hot .key"), "hot keys")
            _take(page, given.folder / f"{name}.png", width, height)
        page.leave()


def _take(page: Page, file: Path, width: int, height: int) -> None:
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
    file.write_bytes(base64.b64decode(taken["data"]))
    print(f"{file}: {file.stat().st_size:,} bytes, {page.driver.title}")


if __name__ == "__main__":
    main()
