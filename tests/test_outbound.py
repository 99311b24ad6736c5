"""Which outbound proxy serves a base URL: a table of environments, and what must not be shown."""

from __future__ import annotations

import base64
import re

import pytest

from relay.config import BaseURL
from relay.reach.outbound import OutboundProxies, ProxyAddress, parse_proxy

API = BaseURL("https", "api.example.com", 443, "/v1")
PLAIN = BaseURL("http", "models.example.com", 80, "/v1")
P = "http://p.example:3128"


def chosen(environ: dict[str, str], base: BaseURL = API, own: str | None = None) -> str | None:
    proxy = OutboundProxies(environ).for_base(base, own)
    return None if proxy is None else f"{proxy.scheme}://{proxy.host}:{proxy.port}"


WHERE_FROM = [
    ("nothing set", {}, API, None, None),
    ("by scheme, https", {"HTTPS_PROXY": P, "HTTP_PROXY": "http://other"}, API, None, P),
    ("by scheme, http", {"HTTPS_PROXY": "http://other", "HTTP_PROXY": P}, PLAIN, None, P),
    ("other scheme only", {"HTTP_PROXY": P}, API, None, None),
    ("lower case wins", {"HTTPS_PROXY": "http://other", "https_proxy": P}, API, None, P),
    ("lower case wins for http too", {"HTTP_PROXY": "http://other", "http_proxy": P}, PLAIN, None, P),
    ("empty is not set", {"HTTPS_PROXY": P, "https_proxy": ""}, API, None, P),
    ("blank is not set", {"https_proxy": "  "}, API, None, None),
    ("all", {"ALL_PROXY": P}, API, None, P),
    ("all, in lower case", {"all_proxy": P, "ALL_PROXY": "http://other"}, PLAIN, None, P),
    ("all comes last", {"ALL_PROXY": "http://other", "HTTPS_PROXY": P}, API, None, P),
    ("httpoxy", {"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, PLAIN, None, None),
    ("httpoxy spares the lower case", {"http_proxy": P, "REQUEST_METHOD": "GET"}, PLAIN, None, P),
    ("own before environment", {"HTTPS_PROXY": "http://other"}, API, P, P),
    ("own none", {"HTTPS_PROXY": P}, API, "none", None),
    ("own none in capitals", {"HTTPS_PROXY": P}, API, "NONE", None),
    ("exempt, whoever named it", {"NO_PROXY": "example.com"}, API, P, None),
    ("lower-case exemptions win", {"NO_PROXY": "*", "no_proxy": "x.test", "HTTPS_PROXY": P}, API, None, P),
    ("empty exemptions are not set", {"NO_PROXY": "*", "no_proxy": "", "HTTPS_PROXY": P}, API, None, None),
    ("a proxy we cannot use, not needed", {"HTTPS_PROXY": "socks5://s", "NO_PROXY": "*"}, API, None, None),
]


@pytest.mark.parametrize(
    ("environ", "base", "own", "proxy"), [c[1:] for c in WHERE_FROM], ids=[c[0] for c in WHERE_FROM]
)
def test_the_proxy_comes_from(environ: dict[str, str], base: BaseURL, own: str | None, proxy: str | None) -> None:
    assert chosen(environ, base, own) == proxy


#            NO_PROXY                        host                  port  exempt
EXEMPTIONS = [
    ("", "api.example.com", 443, False),
    ("*", "api.example.com", 443, True),
    ("x.test, *", "api.example.com", 443, True),
    ("*:443", "api.example.com", 443, True),
    ("*:443", "api.example.com", 8443, False),
    ("example.com", "example.com", 443, True),
    ("example.com", "api.example.com", 443, True),
    ("example.com", "API.Example.COM", 443, True),
    ("EXAMPLE.com", "api.example.com", 443, True),
    ("example.com", "api.example.com.", 443, True),
    ("example.com.", "api.example.com", 443, True),
    ("example.com", "badexample.com", 443, False),
    ("example.com", "example.com.evil.test", 443, False),
    (".example.com", "api.example.com", 443, True),
    (".example.com", "example.com", 443, True),
    ("*.example.com", "api.example.com", 443, True),
    ("api.example.com", "example.com", 443, False),
    ("a.test,b.test", "b.test", 443, True),
    ("a.test b.test", "b.test", 443, True),
    (" a.test ,\tb.test ", "b.test", 443, True),
    (",,", "b.test", 443, False),
    (".", "b.test", 443, False),
    ("example.com:8443", "api.example.com", 8443, True),
    ("example.com:8443", "api.example.com", 443, False),
    ("example.com:http", "api.example.com", 443, False),
    ("10.1.2.3", "10.1.2.3", 443, True),
    ("10.1.2.3", "10.1.2.4", 443, False),
    ("10.1.2.3:80", "10.1.2.3", 80, True),
    ("10.1.2.3:80", "10.1.2.3", 443, False),
    ("10.0.0.0/8", "10.200.0.1", 443, True),
    ("10.9.9.9/8", "10.200.0.1", 443, True),
    ("10.0.0.0/8", "11.0.0.1", 443, False),
    ("10.0.0.0/99", "10.0.0.1", 443, False),
    ("10.0.0.0/8", "10.example.com", 443, False),
    ("0.1.2", "10.0.1.2", 443, False),
    ("2001:db8::1", "2001:db8::1", 443, True),
    ("2001:db8::1", "2001:DB8:0:0::1", 443, True),
    ("[2001:db8::1]", "2001:db8::1", 443, True),
    ("[2001:db8::1]:8443", "2001:db8::1", 8443, True),
    ("[2001:db8::1]:8443", "2001:db8::1", 443, False),
    ("2001:db8::/32", "2001:db8:ffff::1", 443, True),
    ("2001:db8::/32", "2001:db9::1", 443, False),
    ("10.0.0.0/8", "::ffff:10.1.1.1", 443, True),
    ("10.0.0.0/8", "2001:db8::1", 443, False),
    ("nothing.test", "localhost", 8000, True),
    ("nothing.test", "llm.localhost", 8000, True),
    ("nothing.test", "notlocalhost", 8000, False),
    ("nothing.test", "localhost.test", 8000, False),
    ("nothing.test", "127.0.0.1", 8000, True),
    ("nothing.test", "127.9.9.9", 8000, True),
    ("nothing.test", "0.0.0.0", 8000, True),
    ("nothing.test", "::1", 8000, True),
    ("nothing.test", "::", 8000, True),
    ("nothing.test", "::ffff:127.0.0.1", 8000, True),
    ("nothing.test", "192.168.0.1", 8000, False),
]


@pytest.mark.parametrize(("no_proxy", "host", "port", "exempt"), EXEMPTIONS)
def test_exempt_are(no_proxy: str, host: str, port: int, exempt: bool) -> None:
    environ = {"HTTPS_PROXY": P, "NO_PROXY": no_proxy}

    assert (chosen(environ, BaseURL("https", host, port, "")) is None) is exempt


def test_asking_again_gives_the_same_answer() -> None:
    proxies = OutboundProxies({"HTTPS_PROXY": P})

    assert proxies.for_base(API) is proxies.for_base(API)
    assert proxies.for_base(API, "none") is proxies.for_base(API, "none") is None
    assert proxies.for_base(API, "http://own:1") == ProxyAddress("http", "own", 1)


def test_a_unix_socket_is_never_proxied() -> None:
    assert chosen({"HTTP_PROXY": P}, BaseURL("http", "x.test", 80, "", unix="/run/x.sock"), P) is None


URLS = [
    ("http://p:3128", ("http", "p", 3128)),
    ("http://p:3128/", ("http", "p", 3128)),
    ("HTTP://P.Example:3128", ("http", "p.example", 3128)),
    ("p:3128", ("http", "p", 3128)),
    ("p", ("http", "p", 80)),
    ("http://p:", ("http", "p", 80)),
    ("https://p", ("https", "p", 443)),
    ("http://10.0.0.1:8080", ("http", "10.0.0.1", 8080)),
    ("http://[2001:db8::1]:8080", ("http", "2001:db8::1", 8080)),
    ("[::1]:8080", ("http", "::1", 8080)),
    ("http://_squid-1.corp:8080", ("http", "_squid-1.corp", 8080)),
    ("socks5h://s", ("socks5h", "s", 1080)),
]


@pytest.mark.parametrize(("url", "parts"), URLS)
def test_a_url_is_read(url: str, parts: tuple[str, str, int]) -> None:
    assert parse_proxy(url, "proxy") == ProxyAddress(*parts)


CREDENTIALS = [
    ("u:p", "u:p"),
    ("u", "u:"),
    ("u:", "u:"),
    (":p", ":p"),
    ("u:p:q", "u:p:q"),
    ("u@corp:p@ss", "u@corp:p@ss"),
    ("CORP%5Cu:a%2Fb%25", "CORP\\u:a/b%"),
    ("j%C3%B6:%F0%9F%94%91", "jö:🔑"),
]


@pytest.mark.parametrize(("userinfo", "credentials"), CREDENTIALS)
def test_credentials_are_sent_as_basic(userinfo: str, credentials: str) -> None:
    value = parse_proxy(f"http://{userinfo}@p:1", "proxy").authorization()

    assert value == b"Basic " + base64.b64encode(credentials.encode())


def test_bytes_that_are_no_utf_8_survive() -> None:
    value = parse_proxy("http://u:%FF@p:1", "proxy").authorization()

    assert value == b"Basic " + base64.b64encode(b"u:\xff")


@pytest.mark.parametrize("url", ["http://p:1", "http://@p:1"])
def test_no_credentials_no_field(url: str) -> None:
    assert parse_proxy(url, "proxy").authorization() is None


MALFORMED = [
    ("", "not the URL"),
    ("http://", "not the URL"),
    ("http://u:hunter2@", "not the URL"),
    ("http:/u:hunter2@p:1", "not the URL"),
    ("http://u:hunter2@p:port", "not the URL"),
    ("http://u:hunter2@p:3128/path", "not the URL"),
    ("http://u:hunter2@p:3128?q", "not the URL"),
    ("http://u:hunter2@p q:3128", "not the URL"),
    ("http://u:hun/ter2@p:3128", "not the URL"),
    ("http://u:hunter2@::1", "not the URL"),
    ("http://u:hunter2@p\n:1", "not the URL"),
    ("http://u:hunter2@p:1\n", "not the URL"),
    ("http://u:hunter2@p:0", "from 1 to 65535"),
    ("http://u:hunter2@p:65536", "from 1 to 65535"),
    ("http://u:hunter2@[::g]:1", "not the URL"),
    ("http://u:hunter2@[1::2::3]:1", "not an IPv6 address"),
    ("http://u:hunter2@[10.0.0.1]:1", "not an IPv6 address"),
    ("http://a%3Ab:hunter2@p:1", "holds a colon"),
    ("http://u:hunter2%0d%0a@p:1", "control character"),
]


@pytest.mark.parametrize(("url", "complaint"), MALFORMED)
def test_a_malformed_url_is_refused_without_showing_it(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        parse_proxy(url, "proxy")

    assert str(refusal.value).startswith("proxy: ")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_malformed_variable_is_named_at_once(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: not the URL"):
        OutboundProxies({name: "http://p:1/x", "NO_PROXY": "*"})


@pytest.mark.parametrize("own", ["http://p:1/x", "", " "])
def test_a_malformed_proxy_of_a_deployment_is_refused(own: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy: not the URL"):
        OutboundProxies({}).for_base(API, own)


def test_a_kind_of_proxy_that_we_do_not_speak_is_refused_when_it_is_needed() -> None:
    proxies = OutboundProxies({"ALL_PROXY": "socks5://u:hunter2@s:1080"})

    assert proxies.for_base(BaseURL("http", "localhost", 8000, "")) is None
    with pytest.raises(ValueError, match=re.escape("ALL_PROXY: a socks5:// proxy is not spoken here")) as refusal:
        proxies.for_base(API)
    assert "hunter2" not in str(refusal.value)


def test_no_part_of_the_credentials_is_shown() -> None:
    proxy = parse_proxy("http://somebody:correct-horse-battery@p:1", "proxy")

    assert repr(proxy) == "ProxyAddress(scheme='http', host='p', port=1)"
    assert proxy.credentials is not None
    assert "horse" not in repr(proxy.credentials)


def test_addresses_with_other_credentials_are_other_addresses() -> None:
    assert parse_proxy("http://u:a@p", "proxy") != parse_proxy("http://u:b@p", "proxy")
