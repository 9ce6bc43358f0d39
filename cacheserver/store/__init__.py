"""The engine: synchronous, for any number of threads, standard library only, no HTTP in it."""
