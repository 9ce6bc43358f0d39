"""What an operator can set, from flags and the environment, checked before anything happens.

`Settings` is the one table: each field carries its parser, its help and its default, and the flag
`--some-name` and the variable `CACHESERVER_SOME_NAME` follow from the field's name. Reading settings
changes nothing and starts nothing.

    settings = settings_from({"port": "9000"}, os.environ)

A flag wins over its variable. Every mistake raises SettingsError with one sentence that names the
flag or the variable, what it holds and what would be right; never what a secret holds.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Never

from cacheserver.errors import SettingsError

PREFIX: Final = "CACHESERVER_"
"""What the names of our environment variables begin with."""

_FOR_OTHERS: Final = re.compile(r"CACHESERVER_(CACHE|PGO|TEST_.*)")
"""Variables of the build and of the tests: no settings, and no typing mistakes either."""

MAX_STRIPES: Final = 4096
MAX_THREADS: Final = 256
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_ON: Final = {"1": True, "true": True, "yes": True, "on": True}
_OFF: Final = {"0": False, "false": False, "no": False, "off": False}
LOG_LEVELS: Final = ("critical", "error", "warning", "info", "debug")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how it is named, read and explained."""

    name: str
    parse: Callable[[str], Any]
    help: str
    default: str
    """As the help shows it."""
    metavar: str | None
    """What stands for the value in the help; None where the flag takes none."""
    has_flag: bool

    @property
    def flag(self) -> str:
        """`--some-name`; `--no-some-name` for a switch that is on unless it is turned off."""
        return ("--no-" if self.is_on else "--") + self.name.replace("_", "-")

    @property
    def is_on(self) -> bool:
        """Whether this is a switch that is on by default."""
        return self.metavar is None and self.default == "on"

    @property
    def variable(self) -> str:
        """`CACHESERVER_SOME_NAME`."""
        return PREFIX + self.name.upper()


def _setting(
    help: str,  # noqa: A002 (argparse calls it so)
    *,
    parse: Callable[[str], Any],
    default: Any,
    shown: str | None = None,
    metavar: str | None = None,
    has_flag: bool = True,
    secret: bool = False,
) -> Any:
    """Return a field of Settings; `shown` is its default as the help words it."""
    metadata = {
        "parse": parse,
        "help": help,
        "default": str(default) if shown is None else shown,
        "metavar": metavar,
        "has_flag": has_flag,
    }
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def _wrong(what: str) -> Never:
    raise ValueError(what)


def _integer(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,19}", text) and low <= int(text) <= high:
            return int(text)
        _wrong(f"{what}: a whole number from {low} to {high}")

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) and low <= float(text) <= high:
            return float(text)
        _wrong(f"a time in seconds: a number from {low:g} to {high:g}, for example 2.5")

    return parse


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([kmg]?)", text.lower())
    if match and int(match[1]) > 0:
        return int(match[1]) * _UNITS[match[2]]
    _wrong("a number of bytes: a whole number above 0, and k, m or g after it, for example 512m")


def _power_of_two(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,4}", text) and _is_stripes(int(text)):
        return int(text)
    _wrong(f"a number of stripes: a power of two from 1 to {MAX_STRIPES}, for example 64")


def _is_stripes(number: int) -> bool:
    return 1 <= number <= MAX_STRIPES and number.bit_count() == 1


def _host(text: str) -> str:
    bare = text.removeprefix("[").removesuffix("]")
    if bare and not re.search(r"[\s/\[\]@]", bare):
        return bare
    _wrong("an address or a host name, for example 127.0.0.1, ::1 or localhost")


def _choice(options: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        return text if text in options else _wrong(f"one of {', '.join(options)}")

    return parse


def _switch(text: str) -> bool:
    try:
        return (_ON | _OFF)[text.lower()]
    except KeyError:
        _wrong("a switch: 1, true, yes or on, or 0, false, no or off")


def _token(text: str) -> str:
    if re.fullmatch(r"[\x21-\x7e]{16,512}", text):
        return text
    _wrong("a token: 16 to 512 visible ASCII characters without blanks, best made at random")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the server is told. Made by hand it checks less; see `settings_from`.

    Raises SettingsError where two settings contradict each other, or where anybody on the network
    could come in without having been asked to.
    """

    host: str = _setting(
        "address or name to listen on; one that is not loopback needs CACHESERVER_TOKEN, "
        "--auto-token or --insecure",
        parse=_host,
        default="127.0.0.1",
        metavar="ADDRESS",
    )
    port: int = _setting(
        "port to listen on; 0 picks a free one",
        parse=_integer(0, 65535, "a port"),
        default=8080,
        metavar="PORT",
    )
    threads: int = _setting(
        "event loops, each in a thread of its own",
        parse=_integer(1, MAX_THREADS, "a number of threads"),
        default=0,
        shown="the CPUs usable, 1 with the GIL",
        metavar="N",
    )
    stripes: int = _setting(
        f"stripes of a namespace, a power of two up to {MAX_STRIPES}",
        parse=_power_of_two,
        default=0,
        shown="at least 64 and at least 4 x threads",
        metavar="N",
    )
    max_memory: int = _setting(
        "bytes for keys, values and their overhead, all namespaces together; suffixes k, m, g",
        parse=_size,
        default=1 << 30,
        shown="1g",
        metavar="BYTES",
    )
    max_value_size: int = _setting(
        "longest value; a longer one is refused with 413; suffixes k, m, g",
        parse=_size,
        default=8 << 20,
        shown="8m",
        metavar="BYTES",
    )
    max_connections: int = _setting(
        "connections at a time; a further one gets 503 and is closed",
        parse=_integer(1, 1_000_000, "a number of connections"),
        default=10_000,
        metavar="N",
    )
    idle_timeout: float = _setting(
        "seconds after which a connection that sends nothing, or a request that has not "
        "arrived to its end, is closed",
        parse=_seconds(0.05, 86_400),
        default=75.0,
        shown="75",
        metavar="SECONDS",
    )
    grace: float = _setting(
        "seconds that requests in flight get to finish after SIGTERM or SIGINT",
        parse=_seconds(0, 86_400),
        default=10.0,
        shown="10",
        metavar="SECONDS",
    )
    max_namespaces: int = _setting(
        "namespaces that may exist",
        parse=_integer(1, 1_000_000, "a number of namespaces"),
        default=1024,
        metavar="N",
    )
    slow_threshold: float = _setting(
        "seconds from which on an operation counts as slow and stands in /v1/slowlog; 0: every one",
        parse=_seconds(0, 86_400),
        default=0.01,
        metavar="SECONDS",
    )
    fast_path: bool = _setting(
        "send every request through the ASGI app; answers are the same, and slower",
        parse=_switch,
        default=True,
        shown="on",
    )
    token: str | None = _setting(
        "a token that may do everything, asked for as Authorization: Bearer TOKEN; "
        "no flag, because command lines are visible to others",
        parse=_token,
        default=None,
        shown="none",
        metavar="TOKEN",
        has_flag=False,
        secret=True,
    )
    auto_token: bool = _setting(
        "make a token for this run and print it; the variable, unlike the flag, gives way where "
        "a token or --insecure is given",
        parse=_switch,
        default=False,
        shown="off",
    )
    insecure: bool = _setting(
        "let everybody in who can reach the address",
        parse=_switch,
        default=False,
        shown="off",
    )
    log_level: str = _setting(
        f"how much to log on standard error: {', '.join(LOG_LEVELS)}",
        parse=_choice(LOG_LEVELS),
        default="info",
        metavar="LEVEL",
    )

    def __post_init__(self) -> None:
        """Fill in what depends on the machine and on other settings, then check it all together."""
        object.__setattr__(self, "threads", self.threads or default_threads())
        object.__setattr__(self, "stripes", self.stripes or default_stripes(self.threads))
        if not _is_stripes(self.stripes):
            raise SettingsError(f"stripes: {self.stripes} is no power of two up to {MAX_STRIPES}")
        _check_access(self)


def _describe(field: dataclasses.Field[Any]) -> Setting:
    return Setting(name=field.name, **field.metadata)


SETTINGS: Final[tuple[Setting, ...]] = tuple(map(_describe, dataclasses.fields(Settings)))
"""The table as data, in the order of the help."""


def settings_from(flags: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """Return the settings that flags (by the setting's name, without dashes) and variables give."""
    given = {
        setting.name: _parse(setting, source, text)
        for setting in SETTINGS
        for source, text in [_source(setting, flags, environment)]
        if text is not None
    }
    if "auto_token" not in flags and (given.get("token") or given.get("insecure")):
        given.pop("auto_token", None)
    return Settings(**given)


def _source(
    setting: Setting, flags: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[str, str | None]:
    if setting.name in flags:
        return setting.flag, flags[setting.name]
    text = environment.get(setting.variable)
    # Compose and unit files leave variables empty that they don't set. A token is another matter:
    # who gives an empty one believes that there is one.
    return setting.variable, None if text == "" and setting.name != "token" else text


def _parse(setting: Setting, source: str, text: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        given = "what it holds" if setting.name == "token" else repr(text[:80])
        raise SettingsError(f"{source}: {given} is not {error}") from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence about each variable that looks like a setting and is none."""
    known = [setting.variable for setting in SETTINGS]
    return [
        f"{name} is set but is no setting{_suggestion(name, known)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known and not _FOR_OTHERS.fullmatch(name)
    ]


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f": {close[0]} is one" if close else ""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`: 127.0.0.0/8, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _check_access(settings: Settings) -> None:
    ways = [
        name
        for name, given in (
            ("CACHESERVER_TOKEN", settings.token),
            ("--auto-token", settings.auto_token),
            ("--insecure", settings.insecure),
        )
        if given
    ]
    if len(ways) > 1:
        raise SettingsError(f"{' and '.join(ways)} contradict each other: give one of them")
    if not ways and not is_loopback(settings.host):
        raise SettingsError(
            f"--host: {settings.host} can be reached from other machines, and nobody would be asked "
            "for a token: set CACHESERVER_TOKEN, or give --auto-token (makes one for this run) "
            "or --insecure (lets everybody in)"
        )


def default_threads() -> int:
    """Return the number of CPUs this process may use, or 1 where the GIL lets one thread run."""
    if gil_is_on():
        return 1
    cpus = _cpus_by_affinity()
    quota = _cpus_by_quota()
    return max(1, min(cpus, MAX_THREADS, quota or cpus))


def default_stripes(threads: int) -> int:
    """Return the smallest power of two that is at least 64 and at least 4 x `threads`."""
    return min(MAX_STRIPES, 1 << (max(64, 4 * threads) - 1).bit_length())


def gil_is_on() -> bool:
    """Tell whether the interpreter runs with the GIL at this moment."""
    return sys._is_gil_enabled()


def _cpus_by_affinity() -> int:
    return os.process_cpu_count() or 1


def _cpus_by_quota(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Return the CPUs that a container's quota amounts to, rounded up; None where there is none."""
    try:
        quota, period = cgroup.read_text(encoding="ascii").split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None
