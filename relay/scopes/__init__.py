"""Which scope owns an id: the store, the search for what nobody has seen, what answers teach."""
