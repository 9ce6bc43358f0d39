"""Starting: what is printed, where it listens, who may come in, and which GIL it runs with."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cacheserver.settings import default_threads
from tests.support.server import (
    ROOT,
    RunningServer,
    run_to_end,
    running_server,
    serve_command,
    server_environment,
    start_server,
)
from tests.support.wire import Wire, WireAnswer, request

free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded interpreter"
)


def get(server: RunningServer, target: str, **headers: str) -> WireAnswer:
    with Wire(server) as wire:
        return wire.send(request("GET", target, **headers)).answer()


def test_the_listening_line_tells_what_runs() -> None:
    """One line on standard output: address, threads, stripes, interpreter."""
    with running_server("--threads", "2", "--stripes", "128") as server:
        python = f"CPython {platform.python_version()}"
        kind = f"{python} with the GIL" if sys._is_gil_enabled() else f"free-threaded {python}"
        line = f"listening on http://127.0.0.1:{server.port} (2 threads, 128 stripes, {kind})\n"
        assert server.lines == [line]


def test_one_thread_is_written_in_the_singular() -> None:
    """`1 thread`, as the contract has it, and at least 64 stripes."""
    with running_server("--threads", "1") as server:
        assert "(1 thread, 64 stripes, " in server.lines[0]


def test_threads_are_the_usable_cpus() -> None:
    """Without --threads there is a loop for each CPU, or one with the GIL."""
    with running_server() as server:
        assert server.threads == default_threads()


def test_an_unknown_variable_is_warned_of() -> None:
    """A mistyped variable is named on standard error, with what it may have meant."""
    env = {"CACHESERVER_THREDS": "2", "CACHESERVER_TEST_X": "1", "CACHESERVER_PGO": "1"}
    with running_server(env=env) as server:
        pass
    warnings = [line for line in server.stderr_text().splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "CACHESERVER_THREDS" in warnings[0]
    assert "CACHESERVER_THREADS" in warnings[0]


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_it_listens_on_ipv6(host: str) -> None:
    """An IPv6 address stands in brackets where it is printed."""
    with running_server("--host", host) as server:
        assert server.lines[0].startswith("listening on http://[::1]:")
        assert get(server, "/healthz").status == 200


def test_localhost_is_every_address_it_means() -> None:
    """A name that means several addresses is listened to on all, on the same free port."""
    with running_server("--host", "localhost") as server:
        for _, _, _, _, address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM):
            try:
                connection = socket.create_connection((str(address[0]), server.port))
            except OSError:
                assert ":" in str(address[0])
                assert not _has_ipv6()
            else:
                connection.close()


def test_a_token_from_the_environment_is_asked_for() -> None:
    """CACHESERVER_TOKEN guards the data and lets a server listen on all addresses."""
    token = "a-token-for-this-test"
    with running_server("--host", "0.0.0.0", env={"CACHESERVER_TOKEN": token}) as server:  # noqa: S104
        server.host = "127.0.0.1"
        assert get(server, "/v1/kv/a/b").status == 401
        assert get(server, "/v1/kv/a/b", Authorization="Bearer " + token).status == 404
        assert not any(token in line for line in server.lines)
    assert token not in server.stderr_text()


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_auto_token_makes_and_prints_one(how: str) -> None:
    """The token is printed once, before the listening line, and works; another run has another."""
    flags, env = (["--auto-token"], {}) if how == "flag" else ([], {"CACHESERVER_AUTO_TOKEN": "1"})
    tokens = []
    for _ in range(2):
        with running_server(*flags, env=env) as server:
            assert len(server.lines) == 2
            assert server.lines[0].startswith("token for this run: ")
            tokens.append(server.lines[0].split()[-1])
            assert get(server, "/v1/kv/a/b").status == 401
            answer = get(server, "/v1/kv/a/b", Authorization="Bearer " + tokens[-1])
            assert answer.status == 404
    assert tokens[0] != tokens[1]
    assert min(map(len, tokens)) >= 40


def test_a_port_in_use_is_one_line() -> None:
    """Status 1 and one line that says which port, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_to_end("serve", "--port", str(port))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"cacheserver: cannot listen on 127.0.0.1:{port}: ")
    assert "in use" in ended.stderr


def test_two_servers_cannot_share_a_port() -> None:
    """The second of two servers on one port ends; the first goes on."""
    with running_server() as first:
        ended = run_to_end("serve", "--port", str(first.port))
        assert ended.returncode == 1
        assert get(first, "/healthz").status == 200


@pytest.mark.parametrize(
    ("host", "words"),
    [("no-such-host.invalid", "no name known here"), ("192.0.2.1", "no such address")],
)
def test_an_address_that_is_not_here_is_one_line(host: str, words: str) -> None:
    """Status 1 and one line for a name that means nothing and an address of another machine."""
    ended = run_to_end("serve", "--port", "0", "--host", host, "--insecure")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert words in ended.stderr


def test_the_module_is_the_program() -> None:
    """`python -m cacheserver` and the installed script say the same."""
    assert run_to_end("--version").stdout.startswith("cacheserver ")


@free_threaded
def test_the_gil_is_off_in_the_server() -> None:
    """A running server with all it imported has the GIL off."""
    with running_server("--threads", "2", env={"PYTHON_GIL": None}) as server:
        get(server, "/metrics")
        assert get(server, "/v1/info").json()["gil_enabled"] is False
        assert "free-threaded" in server.python


@free_threaded
def test_no_dependency_turns_the_gil_on() -> None:
    """Importing every distribution that is installed for the server, and the server, leaves it off."""
    code = """
import importlib, pathlib, re, sys
from importlib.metadata import packages_distributions
locked = pathlib.Path("requirements/runtime.txt").read_text()
names = {name.replace("-", "_") for name in re.findall(r"^([a-z0-9-]+)==", locked, re.M)}
for module, distributions in packages_distributions().items():
    if names & {name.lower().replace("-", "_") for name in distributions}:
        importlib.import_module(module)
import cacheserver.cli, cacheserver.server
assert {"uvicorn", "starlette", "uvloop", "httptools", "prometheus_client"} < sys.modules.keys()
print(sys._is_gil_enabled())
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=server_environment({"PYTHON_GIL": None}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == "False\n"


@free_threaded
def test_a_gil_that_was_asked_for_is_warned_of() -> None:
    """PYTHON_GIL=1 is obeyed: one thread by default, and a warning."""
    with running_server(env={"PYTHON_GIL": "1"}) as server:
        assert server.threads == 1
        assert server.python == f"CPython {platform.python_version()} with the GIL"
        assert get(server, "/healthz").status == 200
    assert "GIL is on" in server.stderr_text()


GIL_WARNING = """
import sys, warnings

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "httptools":
            warnings.warn(
                "The global interpreter lock (GIL) has been enabled to load module 'httptools.parser', "
                "which has not declared that it can run safely without the GIL.", RuntimeWarning)

sys.meta_path.insert(0, Finder())
"""
GIL_ON = "import sys; sys._is_gil_enabled = lambda: True\n"


@free_threaded
@pytest.mark.parametrize(
    ("what", "words"), [(GIL_WARNING, "httptools.parser"), (GIL_ON, "turned the GIL on")]
)
def test_a_gil_that_a_library_turned_on_ends_it(what: str, words: str, tmp_path: Path) -> None:
    """The server doesn't start with a GIL that nobody asked for, and names the library if it can."""
    (tmp_path / "sitecustomize.py").write_text(what)
    env = {"PYTHONPATH": str(tmp_path), "PYTHON_GIL": None}
    server = start_server(serve_command("--threads", "2"), {**env})
    try:
        assert server.wait() == 1
        assert server.stderr_text().startswith("cacheserver: ")
        assert len(server.stderr_text().splitlines()) == 1
        assert words in server.stderr_text()
    finally:
        server.kill()
