"""A request of a client: its connection, its key, its target, its body, and what it names."""
