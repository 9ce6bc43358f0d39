"""examples/embedded.py as a user runs it: one store for threads, a route, and HTTP clients."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

from tests.support.http_client import SocketClient
from tests.support.server import DEADLINE, ROOT, wait_until


@contextmanager
def running_example() -> Generator[int]:
    """Run the example on a free port, and stop it as Ctrl-C does."""
    command = [sys.executable, str(ROOT / "examples" / "embedded.py"), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    lines: list[str] = []
    pipe = process.stderr
    assert pipe is not None
    reader = threading.Thread(target=lambda: lines.extend(pipe), daemon=True)
    reader.start()
    try:
        listening = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        found = wait_until(lambda: listening.search("".join(lines)), "the example listens")
        assert found
        yield int(found[1])
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0, "".join(lines)
        reader.join(DEADLINE)
        assert "Traceback" not in "".join(lines)
    finally:
        process.kill()
        process.wait()
        pipe.close()


def test_threads_routes_and_clients_share_one_store():
    """What threads write is read over HTTP, what clients write is read by threads; the end is clean."""
    with running_example() as port, SocketClient("127.0.0.1", port) as client:
        key = "/cache/v1/kv/demo/ticks"

        def ticks() -> int:
            return int(json.loads(client.request("GET", "/ticks").body)["ticks"])

        wait_until(lambda: ticks() > 0, "the threads tick")
        seen = client.request("GET", key)
        assert seen.status == 200
        assert int(seen.body) > 0
        stale = [("If-Match", '"7"')]
        assert client.request("PUT", key, stale, b"0").status == 412
        assert client.request("PUT", key, (), b"1000000").status == 204
        assert ticks() >= 1_000_000
        wait_until(lambda: ticks() > 1_000_000, "the threads go on from there")
        assert client.request("GET", "/cache/nothing").json()["reason"] == "route"
        assert client.request("GET", "/cache/metrics").status == 200
