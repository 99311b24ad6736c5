"""HTTP/1.1 on sockets: the grammar, the framing, connections, a request's body, the client's side."""
