"""The server over real sockets, most of it in a process of its own."""
