"""TLS contexts for both sides, from paths in the configuration.

Every fault of a file is a ValueError of one sentence that names it, and a terminal is never asked for a passphrase.
``ssl`` is imported where it is used.
"""

# ruff: noqa: PTH116, PTH123 - pathlib is slow to import
from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import ssl

    from ..config import ListenerTLS, UpstreamTLS

ALPN = ["http/1.1"]
CERTIFICATE = b"-----BEGIN CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----"
PRIVATE_KEY = (b"PRIVATE KEY-----",)  # PKCS #8, or BEGIN RSA / EC / ENCRYPTED PRIVATE KEY

Stamp = tuple[int, int, int, int]

_latest: dict[UpstreamTLS, ssl.SSLContext] = {}  # as many as the file has settings


def client_context(tls: UpstreamTLS) -> ssl.SSLContext:
    """How to speak to an upstream. Equal arguments give the same context until one of the files changes.

    ``ca_file`` replaces the system's trust, as in requests, httpx and LiteLLM; anything in it may end a chain, so an
    upstream's own certificate can be pinned. Raises ValueError for a file that cannot be used.
    """
    import ssl

    system = ssl.get_default_verify_paths().cafile  # an update of the system's trust counts as well
    paths = (tls.ca_file or system, tls.certificate, tls.key)
    context = _latest[tls] = _client_context(tls, tuple(_stamp(path) for path in paths))
    return context


def current_context(tls: UpstreamTLS) -> ssl.SSLContext:
    """The context that was last made for ``tls``, whatever has become of its files since; the first is made now.

    For dials: certificates change on reload (SPEC §14), which calls ``client_context``, and a file that somebody is
    writing at this moment must not fail an exchange.
    """
    context = _latest.get(tls)
    return client_context(tls) if context is None else context


def server_context(tls: ListenerTLS) -> ssl.SSLContext:
    """How clients speak to us; made anew at each call. Raises ValueError for a file that cannot be used."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.options |= ssl.OP_NO_RENEGOTIATION  # costs us more than the client (CVE-2011-1473)
    _present(context, tls.certificate, tls.key)
    if tls.client_ca is not None:
        _trust(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def replace_server_context(live: ssl.SSLContext, fresh: ssl.SSLContext) -> None:
    """Let handshakes that begin from now on at a listener of ``live`` use ``fresh`` (reload of certificates).

    Loading a new chain into ``live`` would not do: OpenSSL keeps one certificate for each kind of key, and a trusted
    CA cannot be taken back. Whether clients must show a certificate at all stays as it was when the listener began.
    """

    def switch(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = fresh

    live.sni_callback = switch  # called for handshakes without a server name, too


@lru_cache(maxsize=64)
def _client_context(tls: UpstreamTLS, _stamps: tuple[Stamp | None, ...]) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_file is not None:
        _trust(context, tls.ca_file)
    else:
        context.load_default_certs()  # the system's, or what SSL_CERT_FILE and SSL_CERT_DIR name
    if tls.certificate is not None:
        _present(context, tls.certificate, tls.key)
    elif tls.key is not None:
        raise ValueError(f"{tls.key}: a client's private key is of no use without its certificate")
    return context


def _harden(context: ssl.SSLContext) -> None:
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # SPEC §12: an end without close_notify is an end; h11 knows whether the message was whole. OpenSSL 3 only.
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def _trust(context: ssl.SSLContext, path: str) -> None:
    import ssl

    _require(path, CERTIFICATE, "CA certificate")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"{path}: cannot be read as CA certificates: {_reason(error)}") from error


def _present(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    import ssl

    _require(certificate, CERTIFICATE, "certificate")
    _require(key or certificate, PRIVATE_KEY, "private key")

    def refuse() -> NoReturn:  # instead of OpenSSL's prompt on the terminal
        raise ValueError(f"{key or certificate}: the private key is encrypted; give one without a passphrase")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key or certificate}: the private key is not that of {certificate}") from error
        both = certificate if key is None else f"{certificate} and {key}"
        raise ValueError(f"{both}: cannot be read as a certificate and its private key: {_reason(error)}") from error


def _require(path: str, marks: tuple[bytes, ...], what: str) -> None:
    """Read ``path`` before OpenSSL does, whose errors name no file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    if not any(mark in content for mark in marks):
        raise ValueError(f"{path}: holds no {what} in PEM form")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unknown error").lower().replace("_", " ")


def _stamp(path: str | None) -> Stamp | None:
    """Tell two states of a file apart, also where a mounted secret is swapped by renaming a link."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None  # who reads it says why
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
