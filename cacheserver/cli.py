"""The command line: reads flags and environment, starts the server, words its errors.

Exit status: 0 after a clean stop; 2 for a flag or a variable that cannot be used, or without a
subcommand; 1 for anything else. An error is one line on standard error, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Final, Never

from cacheserver import __version__
from cacheserver.errors import CacheServerError, SettingsError, StartupError
from cacheserver.settings import SETTINGS, Setting, Settings, settings_from, unknown_variables

_SERVER_FAILED: Final = 1
_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status; `--help` and `--version` raise SystemExit(0)."""
    parser = _parser()
    try:
        given = vars(parser.parse_args(arguments))
        if given.pop("command", None) != "serve":
            print(parser.format_help(), end="", file=sys.stderr)
            return _USAGE
        return _serve(given)
    except CacheServerError as error:
        _complain(str(error))
        return _USAGE if isinstance(error, SettingsError) else _SERVER_FAILED
    except KeyboardInterrupt:  # before the server handles signals itself
        return _SERVER_FAILED


def _serve(flags: dict[str, str]) -> int:
    settings = settings_from(flags, os.environ)
    for sentence in unknown_variables(os.environ):
        _complain(f"warning: {sentence}")
    return _import_server()(settings)


def _import_server() -> Callable[[Settings], int]:
    """Import all the rest. Raises StartupError when a library would turn the GIL on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The global interpreter lock", RuntimeWarning)
        try:
            from cacheserver.server import run
        except RuntimeWarning as warning:
            raise StartupError(
                f"a library needs the GIL, so threads would wait: {warning}"
            ) from None
    return run


def _complain(sentence: str) -> None:
    print(f"cacheserver: {sentence}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are SettingsErrors."""

    def error(self, message: str) -> Never:
        raise SettingsError(f"{message}: see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cacheserver",
        description="An HTTP cache server with compare-and-set, for free-threaded Python.",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the epilog is formatted already
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cacheserver {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", parser_class=_Parser)
    serve = commands.add_parser(
        "serve",
        help="start the server",
        description="Start the server. Each flag has an environment variable; the flag wins.",
        epilog=_without_flag(),
        allow_abbrev=False,
    )
    for setting in SETTINGS:
        if setting.has_flag:
            _add_flag(serve, setting)
    parser.epilog = serve.format_help()
    return parser


def _add_flag(parser: argparse.ArgumentParser, setting: Setting) -> None:
    explanation = _explain(setting)
    if setting.metavar is None:
        parser.add_argument(
            setting.flag,
            dest=setting.name,
            action="store_const",
            const="off" if setting.is_on else "on",
            default=argparse.SUPPRESS,
            help=explanation,
        )
    else:
        parser.add_argument(
            setting.flag, metavar=setting.metavar, default=argparse.SUPPRESS, help=explanation
        )


def _explain(setting: Setting) -> str:
    return f"{setting.help} (default: {setting.default}; {setting.variable})"


def _without_flag() -> str:
    return "Environment only: " + " ".join(
        f"{setting.variable}, {setting.help} (default: {setting.default})."
        for setting in SETTINGS
        if not setting.has_flag
    )
