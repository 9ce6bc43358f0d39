"""Which entry goes when there is no room: one policy a file, the entries' places in `slots`."""
