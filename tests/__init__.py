"""The tests: one file a room, and the whole over real sockets and processes."""
