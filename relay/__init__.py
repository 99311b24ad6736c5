"""The rooms behind the two doors: HTTP, storage and processes. Nothing in here knows about routing."""
