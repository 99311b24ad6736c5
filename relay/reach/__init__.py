"""Reaching an upstream: names, addresses, outbound proxies, TLS, kept connections."""
