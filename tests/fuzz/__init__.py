"""Mutated requests, by hundreds of thousands, to the fast path and to the app: see `__main__`."""
