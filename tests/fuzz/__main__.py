"""Mutated requests to the server with the fast path and to the one without, which must answer the same.

    python -m tests.fuzz [--requests N] [--seed N] [--seconds S] [--replay FILE]

A corpus of valid requests (`corpus.py`) is mutated (`mutate.py`): headers in any order, case, number and
white space; other targets, parameters, bodies and framings; bytes flipped, put in, taken away, doubled;
pieces of one request in another. Streams that are answered in a way not seen before join the corpus.
Each goes over one connection (`wire.py`) to three servers (`sides.py`) that hold the same and have the same
time: one without the fast path, one with it, and one with it that gets the bytes in other portions.

All must send the same, byte for byte, end the connection at the same point, and store and count the
same. Nothing may be logged as an error, nor answered with 500. The exit status is 1 where any of this is
not so; then the smallest stream that shows it is printed, and written to a file for `--replay`.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import os
import random
import sys
import time
from pathlib import Path
from typing import Final

from tests.fuzz.campaign import Campaign, Finding, shrink
from tests.fuzz.mutate import Stream

FOLDER: Final = Path("build/fuzz")


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--requests", type=int, default=1_000_000, help="that are answered")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=1e9, help="after which to stop anyhow")
    parser.add_argument("--replay", type=Path, help="a file with a stream: only that is sent")
    given = parser.parse_args()
    faulthandler.enable()
    if given.replay:
        return replay(given.replay)
    FOLDER.mkdir(parents=True, exist_ok=True)
    latest = FOLDER / f"latest-{given.seed}"
    print(f"seed {given.seed}; the latest stream is in {latest}", flush=True)
    file = os.open(latest, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    current: list[Stream] = []

    def remember(stream: Stream) -> None:
        current[:] = [stream]
        text = stream.text().encode()
        os.pwrite(file, text, 0)
        os.ftruncate(file, len(text))

    started = time.monotonic()
    with Campaign(given.seed, remember) as campaign:
        try:
            campaign.run(given.requests, given.seconds, lambda c: tell(c, started))
        except Exception as error:
            wrong = str(error) or repr(error)
        else:
            tell(campaign, started)
            latest.unlink()
            print("all was the same")
            return 0
    print(f"after {campaign.requests:,} requests: {wrong}\n\nmaking it smaller ...", flush=True)
    print(told := shrink(current[0]))
    save(told)
    return 1


def tell(campaign: Campaign, started: float) -> None:
    """Say how far it is."""
    seconds = time.monotonic() - started
    app, fast = campaign.shares()
    statuses = ", ".join(
        f"{number:,} x {status}" for status, number in sorted(campaign.statuses.items())
    )
    print(
        f"{campaign.requests:,} requests in {campaign.streams:,} streams, {seconds:.0f} s "
        f"({campaign.requests / seconds:,.0f}/s); {campaign.kept:,} streams in the corpus; "
        f"{100 - 100 * fast / max(1, app):.0f} per cent answered by the fast path\n  {statuses}",
        flush=True,
    )


def replay(path: Path) -> int:
    """Send the stream of a file."""
    found = shrink(Stream.from_text(path.read_text()))
    print(found if found.is_alone else "new servers take it well")
    return 1 if found.is_alone else 0


def save(finding: Finding) -> None:
    """Write a stream where `--replay` can find it."""
    path = FOLDER / f"found-{hashlib.sha256(finding.stream.text().encode()).hexdigest()[:12]}"
    path.write_text(finding.stream.text())
    print(f'again: make fuzz ARGS="--replay {path}"')


if __name__ == "__main__":
    sys.exit(main())
