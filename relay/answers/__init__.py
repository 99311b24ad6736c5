"""How an answer reaches the client: as a message, as a session, as a list of several, as a page of ours."""
