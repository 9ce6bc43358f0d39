"""The command line: help, versions, and mistakes, each with its exit status and one line."""

from __future__ import annotations

import pytest

import cacheserver
from cacheserver.cli import main
from cacheserver.settings import SETTINGS
from tests.support.server import run_to_end

type Capture = pytest.CaptureFixture[str]


def test_help_of_the_program(capsys: Capture) -> None:
    """It names the subcommand."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "serve" in capsys.readouterr().out


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_help_of_serve(setting: cacheserver.settings.Setting, capsys: Capture) -> None:
    """Every setting stands there with its flag, its default and its variable."""
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    if setting.has_flag:
        assert f"(default: {setting.default}; {setting.variable})" in text
        assert f"{setting.flag} " in text
    else:
        assert setting.variable in text
        assert f"{setting.flag} " not in text


def test_version(capsys: Capture) -> None:
    """`cacheserver 0.1.0`, or whatever it is by then."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"cacheserver {cacheserver.__version__}\n"


def test_no_subcommand_is_a_usage_error(capsys: Capture) -> None:
    """The help, and status 2."""
    assert main([]) == 2
    assert "serve" in capsys.readouterr().err


BAD_FLAGS = [
    (["serve", "--port", "http"], "--port"),
    (["serve", "--port"], "--port"),
    (["serve", "--stripes", "3"], "--stripes"),
    (["serve", "--max-memory", "lots"], "--max-memory"),
    (["serve", "--idle-timeout", "never"], "--idle-timeout"),
    (["serve", "--log-level", "loud"], "--log-level"),
    (["serve", "--auto-token=1"], "--auto-token"),
    (["serve", "--auto-token", "--insecure"], "contradict"),
    (["serve", "--host", "0.0.0.0"], "--auto-token"),  # noqa: S104
    (["serve", "--por", "1"], "--por"),
    (["serve", "--unknown"], "--unknown"),
    (["serve", "extra"], "extra"),
    (["start"], "start"),
    # Not there yet, so not to be taken silently:
    (["serve", "--token", "0123456789abcdef"], "--token"),
    (["serve", "--tokens-file", "x"], "--tokens-file"),
    (["serve", "--snapshot", "x"], "--snapshot"),
    (["serve", "--snapshot-interval", "1"], "--snapshot-interval"),
    (["serve", "--journal", "x"], "--journal"),
    (["serve", "--journal-sync", "no"], "--journal-sync"),
    (["serve", "--tls-cert", "x"], "--tls-cert"),
    (["serve", "--tls-key", "x"], "--tls-key"),
    (["serve", "--tls-client-ca", "x"], "--tls-client-ca"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD_FLAGS, ids=lambda value: str(value))
def test_a_bad_flag_is_one_line(arguments: list[str], word: str, capsys: Capture) -> None:
    """Status 2, nothing on standard output, and one line that names what is wrong."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("cacheserver: ")
    assert word in said.err


BAD_ENVIRONMENT = [
    ("CACHESERVER_PORT", "tcp://10.0.0.1:8080"),
    ("CACHESERVER_THREADS", "many"),
    ("CACHESERVER_MAX_MEMORY", "1 GB"),
    ("CACHESERVER_TOKEN", "short"),
    ("CACHESERVER_AUTO_TOKEN", "perhaps"),
    ("CACHESERVER_GRACE", "\udcff"),
]


@pytest.mark.parametrize(("name", "value"), BAD_ENVIRONMENT)
def test_a_bad_variable_is_one_line(
    name: str, value: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the environment."""
    monkeypatch.setenv(name, value)
    assert main(["serve"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"cacheserver: {name}: ")


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["serve", "--port", "x"], {}),
        (["serve", "--host", "0.0.0.0"], {}),  # noqa: S104
        (["serve"], {"CACHESERVER_PORT": "x"}),
        (["serve"], {"CACHESERVER_HOST": "0.0.0.0"}),  # noqa: S104
        (["nonsense"], {}),
    ],
)
def test_mistakes_in_a_process_of_their_own(arguments: list[str], env: dict[str, str]) -> None:
    """The exit status arrives where the shell sees it, and there's no traceback."""
    ended = run_to_end(*arguments, env=env)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["--help"], ["serve", "--help"]])
def test_help_names_every_flag_and_variable(command: list[str]) -> None:
    """Both helps show every flag with its variable."""
    said = run_to_end(*command).stdout
    assert [s.variable for s in SETTINGS if s.variable not in said] == []
    assert [s.flag for s in SETTINGS if s.has_flag and s.flag not in said] == []
