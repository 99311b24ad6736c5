"""Processes: command line, start, listening sockets, workers, signals, reload."""
