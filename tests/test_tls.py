"""TLS contexts: real handshakes in memory, and one sentence for each file that cannot be used."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from relay.config import ListenerTLS, UpstreamTLS
from relay.reach.tls import client_context, current_context, replace_server_context, server_context

NAME = "api.example.test"


class Files:
    """Certificates of one CA, as files: ``ca.pem``; ``server.pem`` and ``client.pem`` hold chain and key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = self.write("ca.pem", self.authority.cert_pem.bytes())
        self.server = self.issue("server.pem", NAME)
        self.client = self.issue("client.pem", "client.example.test")

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def issue(self, name: str, identity: str) -> str:
        return self.write(name, self.authority.issue_cert(identity).private_key_and_cert_chain_pem.bytes())

    def split(self, name: str) -> tuple[str, str]:
        """Certificate and key as two files."""
        leaf = self.authority.issue_cert(NAME)
        certificate = self.write(f"{name}-cert.pem", leaf.cert_chain_pems[0].bytes())
        return certificate, self.write(f"{name}-key.pem", leaf.private_key_pem.bytes())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("strangers"))


class Side:
    """One end of a handshake in memory."""

    def __init__(self, context: ssl.SSLContext, *, server: bool, name: str | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server, server_hostname=name)

    def advance(self) -> None:
        try:
            self.tls.do_handshake()
            self.tls.read(1)  # TLS 1.3: the server checks the client's certificate after the client is done
        except ssl.SSLWantReadError:
            pass


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = NAME) -> ssl.SSLObject:
    """Complete a handshake; the client's view of it."""
    ends = Side(client, server=False, name=name), Side(server, server=True)
    for _ in range(4):
        for end, other in (ends, ends[::-1]):
            end.advance()
            other.incoming.write(end.outgoing.read())
    return ends[0].tls


def names(tls: ssl.SSLObject) -> list[str]:
    certificate = tls.getpeercert()
    assert certificate is not None
    alternatives = certificate["subjectAltName"]
    assert isinstance(alternatives, tuple)
    return [str(name[1]) for name in alternatives]


@pytest.fixture
def stamped(files: Files, tmp_path: Path) -> Path:
    """A certificate file that a test may overwrite."""
    path = tmp_path / "changing.pem"
    path.write_bytes(Path(files.client).read_bytes())
    return path


def test_a_known_authority_is_trusted(files: Files) -> None:
    tls = shake(client_context(UpstreamTLS(ca_file=files.ca)), server_context(ListenerTLS(files.server)))

    assert names(tls) == [NAME]
    assert tls.selected_alpn_protocol() == "http/1.1"


def test_certificate_and_key_may_be_two_files(files: Files) -> None:
    tls = shake(client_context(UpstreamTLS(ca_file=files.ca)), server_context(ListenerTLS(*files.split("two"))))

    assert names(tls) == [NAME]


def test_a_pinned_certificate_needs_no_authority(files: Files) -> None:
    certificate, key = files.split("pinned")

    assert shake(client_context(UpstreamTLS(ca_file=certificate)), server_context(ListenerTLS(certificate, key)))


@pytest.mark.parametrize(
    ("trust", "name", "complaint"),
    [
        ("other", NAME, "unable to get local issuer certificate"),
        ("system", NAME, "unable to get local issuer certificate"),
        ("right", "other.example.test", "Hostname mismatch"),
    ],
)
def test_a_stranger_is_not_trusted(files: Files, strangers: Files, trust: str, name: str, complaint: str) -> None:
    ca = {"other": strangers.ca, "system": None, "right": files.ca}[trust]

    with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
        shake(client_context(UpstreamTLS(ca_file=ca)), server_context(ListenerTLS(files.server)), name)


def test_the_environment_may_name_the_system_s_trust(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    before = client_context(UpstreamTLS())
    monkeypatch.setenv("SSL_CERT_FILE", files.ca)

    assert client_context(UpstreamTLS()) is not before
    assert shake(client_context(UpstreamTLS()), server_context(ListenerTLS(files.server)))


def test_without_verification_anybody_will_do(files: Files) -> None:
    context = client_context(UpstreamTLS(verify=False))

    assert shake(context, server_context(ListenerTLS(files.server)), "whatever.test").cipher()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_versions_are_spoken(files: Files, version: ssl.TLSVersion) -> None:
    client, server = client_context(UpstreamTLS(ca_file=files.ca)), server_context(ListenerTLS(files.server))
    server.maximum_version = version

    assert shake(client, server).version() == version.name.replace("_", ".")


def test_old_versions_are_not_spoken(files: Files) -> None:
    client, server = client_context(UpstreamTLS(ca_file=files.ca)), server_context(ListenerTLS(files.server))

    assert client.minimum_version == server.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_missing_close_notify_is_an_end(files: Files) -> None:
    ends = (
        Side(client_context(UpstreamTLS(ca_file=files.ca)), server=False, name=NAME),
        Side(server_context(ListenerTLS(files.server)), server=True),
    )
    for _ in range(4):
        for end, other in (ends, ends[::-1]):
            end.advance()
            other.incoming.write(end.outgoing.read())
    for end in ends:
        end.incoming.write_eof()

        assert end.tls.read(1) == b""


def test_an_upstream_that_asks_is_shown_our_certificate(files: Files) -> None:
    server = server_context(ListenerTLS(files.server, client_ca=files.ca))

    assert shake(client_context(UpstreamTLS(ca_file=files.ca, certificate=files.client)), server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_listener_with_a_client_ca_wants_a_certificate_of_its(
    files: Files, strangers: Files, version: ssl.TLSVersion
) -> None:
    server = server_context(ListenerTLS(files.server, client_ca=files.ca))
    server.maximum_version = version

    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(client_context(UpstreamTLS(ca_file=files.ca)), server)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake(client_context(UpstreamTLS(ca_file=files.ca, certificate=strangers.client)), server)


def test_equal_settings_share_a_context(files: Files) -> None:
    assert client_context(UpstreamTLS(ca_file=files.ca)) is client_context(UpstreamTLS(ca_file=files.ca))
    assert client_context(UpstreamTLS(ca_file=files.ca)) is not client_context(UpstreamTLS())


def test_a_changed_file_is_read_again(files: Files, stamped: Path) -> None:
    tls = UpstreamTLS(ca_file=files.ca, certificate=str(stamped))
    before = client_context(tls)
    replacement = Path(files.issue("replacement.pem", "renewed.example.test"))
    replacement.replace(stamped)

    assert client_context(tls) is not before


def test_dials_keep_their_context_until_the_reload(files: Files, stamped: Path) -> None:
    tls = UpstreamTLS(ca_file=files.ca, certificate=str(stamped))
    before = current_context(tls)
    assert before is client_context(tls)
    stamped.write_bytes(b"half a certificate")

    with pytest.raises(ValueError, match="holds no certificate"):
        client_context(tls)
    assert current_context(tls) is before

    stamped.write_bytes(Path(files.issue("next.pem", "next.example.test")).read_bytes())
    assert current_context(tls) is before
    assert client_context(tls) is current_context(tls) is not before


def test_a_listener_s_certificate_is_replaced_for_later_handshakes(files: Files, strangers: Files) -> None:
    client = client_context(UpstreamTLS(ca_file=strangers.ca, certificate=strangers.client))
    live = server_context(ListenerTLS(files.server, client_ca=files.ca))
    fresh = server_context(ListenerTLS(strangers.server, client_ca=strangers.ca))
    with pytest.raises(ssl.SSLError):
        shake(client, live)

    replace_server_context(live, fresh)

    assert names(shake(client, live)) == [NAME]
    assert shake(client, live)
    with pytest.raises(ssl.SSLError):  # the old authority is forgotten
        shake(client_context(UpstreamTLS(ca_file=strangers.ca, certificate=files.client)), live)


def test_a_handshake_without_a_server_name_gets_the_replacement_too(files: Files, strangers: Files) -> None:
    client = client_context(UpstreamTLS(ca_file=strangers.ca))
    live = server_context(ListenerTLS(files.server))
    address = strangers.issue("address.pem", "127.0.0.1")

    replace_server_context(live, server_context(ListenerTLS(address)))

    assert names(shake(client, live, "127.0.0.1")) == ["127.0.0.1"]


def encrypted(pem: str) -> bytes:
    key = serialization.load_pem_private_key(Path(pem).read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"passphrase")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def broken(pem: str) -> bytes:
    """The same file with the first line of its content spoilt."""
    first, second, *rest = Path(pem).read_bytes().split(b"\n")
    return b"\n".join([first, second[::-1], *rest])


FAULTS = [
    ("missing certificate", "absent.pem", None, None, "absent.pem: No such file or directory"),
    ("missing key", "cert.pem", "absent.pem", None, "absent.pem: No such file or directory"),
    ("missing CA", "cert.pem", "key.pem", "absent.pem", "absent.pem: No such file or directory"),
    ("a folder", ".", None, None, ": Is a directory"),
    ("no certificate", "key.pem", None, None, "key.pem: holds no certificate in PEM form"),
    ("no key in the only file", "cert.pem", None, None, "cert.pem: holds no private key in PEM form"),
    ("no key in its file", "cert.pem", "cert.pem", None, "cert.pem: holds no private key in PEM form"),
    ("no CA", "cert.pem", "key.pem", "key.pem", "key.pem: holds no CA certificate in PEM form"),
    ("empty", "empty.pem", None, None, "empty.pem: holds no certificate in PEM form"),
    ("another's key", "cert.pem", "other-key.pem", None, r"other-key.pem: the private key is not that of .*cert.pem"),
    ("encrypted key", "cert.pem", "locked.pem", None, "locked.pem: the private key is encrypted"),
    ("broken certificate", "broken.pem", "key.pem", None, r"broken.pem and .*key.pem: cannot be read as a certificate"),
    ("broken pair", "pair.pem", None, None, "pair.pem: cannot be read as a certificate and its private key"),
    ("broken CA", "cert.pem", "key.pem", "broken.pem", "broken.pem: cannot be read as CA certificates"),
]


@pytest.fixture(scope="module")
def faulty(files: Files) -> Path:
    """A folder with every file that ``FAULTS`` names."""
    certificate, key = files.split("plain")
    _, other = files.split("other")
    for name, content in {
        "cert.pem": Path(certificate).read_bytes(),
        "key.pem": Path(key).read_bytes(),
        "other-key.pem": Path(other).read_bytes(),
        "locked.pem": encrypted(key),
        "broken.pem": broken(certificate),
        "pair.pem": broken(certificate) + Path(key).read_bytes(),
        "empty.pem": b"",
    }.items():
        files.write(name, content)
    return files.folder


@pytest.mark.parametrize(("certificate", "key", "ca", "complaint"), [c[1:] for c in FAULTS], ids=[c[0] for c in FAULTS])
@pytest.mark.parametrize("side", ["upstream", "listener"])
def test_a_faulty_file_is_named(
    faulty: Path, side: str, certificate: str, key: str | None, ca: str | None, complaint: str
) -> None:
    first, second, third = (None if name is None else str(faulty / name) for name in (certificate, key, ca))
    assert first is not None

    def load() -> ssl.SSLContext:
        if side == "upstream":
            return client_context(UpstreamTLS(ca_file=third, certificate=first, key=second))
        return server_context(ListenerTLS(first, second, third))

    with pytest.raises(ValueError, match=complaint) as refusal:
        load()
    assert str(refusal.value).startswith(str(faulty))
    assert "\n" not in str(refusal.value)


def test_a_key_alone_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match=r"of no use without its certificate"):
        client_context(UpstreamTLS(key=files.client))


def test_a_file_without_permission_is_named(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str, _: str) -> None:
        raise PermissionError(13, os.strerror(13), path)

    monkeypatch.setattr("relay.reach.tls.open", deny, raising=False)  # root, who may run the tests, is denied nothing

    with pytest.raises(ValueError, match=r"server\.pem: Permission denied"):
        server_context(ListenerTLS(files.server))


def test_a_failure_is_not_remembered(files: Files) -> None:
    path = files.folder / "late.pem"
    with pytest.raises(ValueError, match="No such file"):
        client_context(UpstreamTLS(ca_file=str(path)))
    path.write_bytes(Path(files.ca).read_bytes())

    assert client_context(UpstreamTLS(ca_file=str(path)))
