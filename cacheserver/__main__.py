"""`python -m cacheserver`: the same program as `cacheserver`."""

from __future__ import annotations

import sys

from cacheserver.cli import main

if __name__ == "__main__":
    sys.exit(main())
