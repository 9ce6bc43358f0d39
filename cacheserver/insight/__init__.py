"""What the figures of the last minute mean: where threads wait, for which keys, and what to do."""
