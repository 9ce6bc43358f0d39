"""Settings: what is accepted, what is refused and how, and what follows from what."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from cacheserver.errors import SettingsError
from cacheserver.settings import (
    SETTINGS,
    Setting,
    Settings,
    _cpus_by_quota,
    default_stripes,
    default_threads,
    is_loopback,
    settings_from,
    unknown_variables,
)

TOKEN = "0123456789abcdef"

GOOD = [
    ("host", "localhost", "localhost"),
    ("host", "[::1]", "::1"),
    ("port", "0", 0),
    ("port", "65535", 65535),
    ("threads", "3", 3),
    ("stripes", "1", 1),
    ("stripes", "4096", 4096),
    ("max_memory", "1", 1),
    ("max_memory", "2k", 2048),
    ("max_memory", "3M", 3 << 20),
    ("max_memory", "4g", 4 << 30),
    ("max_value_size", "100", 100),
    ("max_connections", "1", 1),
    ("idle_timeout", "0.5", 0.5),
    ("grace", "0", 0.0),
    ("max_namespaces", "7", 7),
    ("slow_threshold", "0", 0.0),
    ("slow_threshold", "0.0005", 0.0005),
    ("fast_path", "0", False),
    ("fast_path", "on", True),
    ("auto_token", "Yes", True),
    ("auto_token", "off", False),
    ("insecure", "1", True),
    ("token", TOKEN, TOKEN),
    ("log_level", "debug", "debug"),
]

BAD = [
    ("host", "http://x"),
    ("host", "a b"),
    ("port", "http"),
    ("port", "-1"),
    ("port", "65536"),
    ("port", "8_0"),
    ("port", "\u0661"),
    ("port", "1" * 5000),
    ("threads", "0"),
    ("threads", "257"),
    ("threads", "1.5"),
    ("stripes", "0"),
    ("stripes", "48"),
    ("stripes", "8192"),
    ("max_memory", "0"),
    ("max_memory", "1t"),
    ("max_memory", "1.5g"),
    ("max_memory", "-1"),
    ("max_value_size", "big"),
    ("max_connections", "0"),
    ("idle_timeout", "0"),
    ("idle_timeout", "inf"),
    ("idle_timeout", "nan"),
    ("idle_timeout", "75s"),
    ("grace", "-1"),
    ("grace", "1e9"),
    ("max_namespaces", "0"),
    ("slow_threshold", "-1"),
    ("slow_threshold", "10ms"),
    ("fast_path", "fast"),
    ("auto_token", "maybe"),
    ("insecure", "2"),
    ("token", ""),
    ("token", "short"),
    ("token", "with a blank in it"),
    ("token", "0123456789abcde\u00e4"),
    ("log_level", "loud"),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_variable_is_read(name: str, text: str, value: object) -> None:
    """Each setting has a variable named after it."""
    settings = settings_from({}, {"CACHESERVER_" + name.upper(): text})
    assert getattr(settings, name) == value


@pytest.mark.parametrize(("name", "text", "value"), [row for row in GOOD if row[0] != "token"])
def test_a_flag_is_read_and_wins(name: str, text: str, value: object) -> None:
    """A flag is read as its variable is, and the variable isn't even looked at."""
    settings = settings_from({name: text}, {"CACHESERVER_" + name.upper(): "nonsense"})
    assert getattr(settings, name) == value


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_variable_is_named(name: str, text: str) -> None:
    """The message names the variable and says what would be right."""
    variable = "CACHESERVER_" + name.upper()
    with pytest.raises(SettingsError, match=rf"^{variable}: .* is not .+") as caught:
        settings_from({}, {variable: text})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("name", "text"), [row for row in BAD if row[0] != "token"])
def test_a_bad_flag_is_named(name: str, text: str) -> None:
    """The message names the flag."""
    flag = next(setting.flag for setting in SETTINGS if setting.name == name)
    assert flag.replace("--no-", "--") == "--" + name.replace("_", "-")
    with pytest.raises(SettingsError, match=f"^{flag}: "):
        settings_from({name: text}, {})


def test_every_setting_was_tried() -> None:
    """The tables above leave no setting out."""
    names = {setting.name for setting in SETTINGS}
    assert {row[0] for row in GOOD} == {row[0] for row in BAD} == names


def test_defaults_are_those_of_the_contract() -> None:
    """Without flags and variables."""
    settings = settings_from({}, {})
    assert settings == Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.threads == default_threads()
    assert settings.stripes == default_stripes(settings.threads)
    assert (settings.max_memory, settings.max_value_size) == (1 << 30, 8 << 20)
    assert (settings.max_connections, settings.max_namespaces) == (10_000, 1024)
    assert (settings.idle_timeout, settings.grace) == (75, 10)
    assert settings.slow_threshold == 0.01
    assert (settings.token, settings.auto_token, settings.insecure) == (None, False, False)
    assert settings.log_level == "info"


@pytest.mark.parametrize(
    ("threads", "stripes"), [(1, 64), (16, 64), (17, 128), (100, 512), (256, 1024)]
)
def test_stripes_follow_threads(threads: int, stripes: int) -> None:
    """The smallest power of two, at least 64 and at least 4 x threads."""
    assert default_stripes(threads) == stripes
    assert Settings(threads=threads).stripes == stripes


def test_settings_made_by_hand_are_checked_too() -> None:
    """Stripes that are no power of two are refused however they were given."""
    with pytest.raises(SettingsError, match="power of two"):
        Settings(stripes=3)


def test_settings_are_frozen() -> None:
    """Nobody changes them while they are in use."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_a_token_is_never_shown() -> None:
    """Neither in what the settings look like nor in what is said about a bad one."""
    assert TOKEN not in repr(Settings(token=TOKEN))
    secret = "oh so secret"
    with pytest.raises(SettingsError) as caught:
        settings_from({}, {"CACHESERVER_TOKEN": secret})
    assert secret not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST."])
def test_loopback_needs_no_token(host: str) -> None:
    """Who is on the machine may come in."""
    assert is_loopback(host)
    Settings(host=host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.com", "localhost.evil.com"],  # noqa: S104
)
def test_other_addresses_need_to_be_guarded(host: str) -> None:
    """Without a token and without saying that none is wanted, it isn't listened to."""
    assert not is_loopback(host)
    with pytest.raises(SettingsError, match=r"CACHESERVER_TOKEN.*--auto-token.*--insecure"):
        Settings(host=host)
    for way in ({"token": TOKEN}, {"auto_token": True}, {"insecure": True}):
        Settings(host=host, **way)


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ({"auto_token": "on", "insecure": "on"}, {}),
        ({"auto_token": "on"}, {"CACHESERVER_TOKEN": TOKEN}),
        ({"insecure": "on"}, {"CACHESERVER_TOKEN": TOKEN}),
        ({}, {"CACHESERVER_TOKEN": TOKEN, "CACHESERVER_INSECURE": "1"}),
        ({"auto_token": "on"}, {"CACHESERVER_INSECURE": "1"}),
    ],
)
def test_contradictions_are_refused(flags: dict[str, str], variables: dict[str, str]) -> None:
    """What would silently drop a token, or let everybody in beside it, is an error."""
    with pytest.raises(SettingsError, match="contradict"):
        settings_from(flags, variables)


def test_auto_token_by_variable_gives_way() -> None:
    """So that an image can make a token unless its user says otherwise."""
    auto = {"CACHESERVER_AUTO_TOKEN": "1"}
    assert settings_from({}, auto).auto_token
    with_token = settings_from({}, {**auto, "CACHESERVER_TOKEN": TOKEN})
    assert (with_token.auto_token, with_token.token) == (False, TOKEN)
    with_flag = settings_from({"insecure": "on"}, auto)
    assert (with_flag.auto_token, with_flag.insecure) == (False, True)


def test_unknown_variables_are_told() -> None:
    """A variable that is no setting is named, with the setting that was meant."""
    sentences = unknown_variables(
        {
            "CACHESERVER_PORTS": "1",
            "CACHESERVER_WHATEVER": "1",
            "CACHESERVER_PORT": "1",
            "CACHESERVER_CACHE": "1",
            "CACHESERVER_PGO": "1",
            "CACHESERVER_TEST_ANYTHING": "1",
            "OTHER": "1",
        }
    )
    assert len(sentences) == 2
    assert re.search("CACHESERVER_PORTS.*CACHESERVER_PORT is one", sentences[0])
    assert sentences[1].startswith("CACHESERVER_WHATEVER")


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("200000 100000\n", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("max 100000", None),
        ("", None),
        ("1 0", None),
    ],
)
def test_a_container_quota_counts_as_cpus(text: str, cpus: int | None, tmp_path: Path) -> None:
    """The quota of a cgroup, rounded up; none where there is none."""
    (tmp_path / "cpu.max").write_text(text)
    assert _cpus_by_quota(tmp_path / "cpu.max") == cpus
    assert _cpus_by_quota(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if s.name != "token"], ids=lambda s: s.name
)
def test_empty_variable_counts_as_none(setting: Setting) -> None:
    """Compose and unit files leave variables empty: the default holds then."""
    assert settings_from({}, {setting.variable: ""}) == settings_from({}, {})


def test_empty_token_is_refused() -> None:
    """Who gives an empty token believes that there is one."""
    with pytest.raises(SettingsError, match="CACHESERVER_TOKEN"):
        settings_from({}, {"CACHESERVER_TOKEN": ""})
