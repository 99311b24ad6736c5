"""HTTP/1.1 and WebSocket on sockets, in either role: grammar, framing, connections, moving bytes. Knows no meaning."""
