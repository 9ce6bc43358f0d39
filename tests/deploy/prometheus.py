"""Debian's real Prometheus and promtool, for tests.

Where they are not installed the tests that need them are skipped, but in CI, where scripts/test-tools
was to install them, they fail.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.support.server import DEADLINE, ROOT, wait_until

CONFIG: Final = ROOT / "deploy" / "prometheus"

_LISTENING: Final = re.compile(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')


def tool(name: str) -> str:
    """Return the path of an installed program; skip the test where there is none, fail it in CI."""
    path = shutil.which(name)
    if path is None:
        why = f"{name} is not installed: scripts/test-tools installs it"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return path


def promtool(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Run promtool and return what it said; fail the test where it found a fault."""
    done = subprocess.run(
        [tool("promtool"), *map(str, arguments)],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


def copied_config(folder: Path, *, target: str, token: str) -> Path:
    """Copy the configuration into `folder` and return its path there.

    Other than the original it scrapes `target`, with `token`, and every second; rules and alerts are
    copied as they are.
    """
    (folder / "token").write_text(token)
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(CONFIG / name, folder)
    text = (CONFIG / "prometheus.yml").read_text(encoding="utf-8")
    for original, changed in {
        "scrape_interval: 5s": "scrape_interval: 1s",
        "evaluation_interval: 5s": "evaluation_interval: 1s",
        "/run/secrets/cacheserver_token": str(folder / "token"),
        "cacheserver:8080": target,
    }.items():
        assert text.count(original) == 1, original
        text = text.replace(original, changed)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


class Prometheus:
    """A Prometheus that runs, asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Return `data` of the answer of /api/v1/PATH; fail where it is an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters or {})}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert answer["status"] == "success", f"{path} {parameters}: {answer}"
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """Return the series that an expression gives now."""
        result: list[Any] = self.get("query", {"query": expression})["result"]
        return result

    def query_range(self, expression: str, start: float, end: float) -> list[Any]:
        """Return the series that an expression gives, second by second."""
        parameters = {"query": expression, "start": str(start), "end": str(end), "step": "1"}
        result: list[Any] = self.get("query_range", parameters)["result"]
        return result

    def metric_names(self) -> set[str]:
        """Return the names of all series, recorded ones among them."""
        return set(self.get("label/__name__/values"))

    def alerts(self) -> dict[str, str]:
        """Return the alerts that are not inactive, with their state: pending or firing."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in alerts}


@contextmanager
def running_prometheus(config: Path, folder: Path) -> Generator[Prometheus]:
    """Start Prometheus on a free port, with what it keeps in `folder`, and stop it at the end."""
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--enable-feature=exemplar-storage",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:

        def port() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return _LISTENING.search(log.read_text())

        listening = wait_until(port, "Prometheus listens")
        assert listening is not None
        yield Prometheus(int(listening[1]))
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
