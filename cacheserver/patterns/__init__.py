"""Measures the locking patterns of `cacheserver.store` on the interpreter that runs it.

`python -m cacheserver.patterns` prints Markdown tables: what a lock costs, free and contended, where
stripes pay, when optimistic updates lose. Standard library only; a plot needs matplotlib.
docs/patterns.md explains the patterns and what was measured.
"""
