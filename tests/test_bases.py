"""Bases: what one gives an SDK as base_url, and how it is written again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config import BaseURL
from relay.reading.bases import parse_base, show_base

GOOD = [
    ("https://api.openai.com/v1", BaseURL("https", "api.openai.com", 443, "/v1"), "https://api.openai.com/v1"),
    ("https://api.openai.com", BaseURL("https", "api.openai.com", 443, "/v1"), "https://api.openai.com/v1"),
    ("https://api.openai.com/", BaseURL("https", "api.openai.com", 443, "/v1"), "https://api.openai.com/v1"),
    ("HTTP://API.example:80/a/b///", BaseURL("http", "api.example", 80, "/a/b"), "http://api.example/a/b"),
    ("http://my_vllm:8000", BaseURL("http", "my_vllm", 8000, "/v1"), "http://my_vllm:8000/v1"),
    ("http://host:/v1", BaseURL("http", "host", 80, "/v1"), "http://host/v1"),
    ("https://host.:443/v1", BaseURL("https", "host.", 443, "/v1"), "https://host./v1"),
    ("http://10.0.0.1:65535/v1", BaseURL("http", "10.0.0.1", 65535, "/v1"), "http://10.0.0.1:65535/v1"),
    ("http://[0::0:1]:1/v1", BaseURL("http", "::1", 1, "/v1"), "http://[::1]:1/v1"),
    ("https://[2001:DB8::1]", BaseURL("https", "2001:db8::1", 443, "/v1"), "https://[2001:db8::1]/v1"),
    ("https://host/a%20b/@:c", BaseURL("https", "host", 443, "/a%20b/@:c"), "https://host/a%20b/@:c"),
    (
        "http://unix:/run/x.sock:/v1",
        BaseURL("http", "localhost", 80, "/v1", "/run/x.sock"),
        "http://unix:/run/x.sock:/v1",
    ),
    ("http://unix:/run/x.sock:", BaseURL("http", "localhost", 80, "/v1", "/run/x.sock"), "http://unix:/run/x.sock:/v1"),
    ("http://unix:/run/x.sock", BaseURL("http", "localhost", 80, "/v1", "/run/x.sock"), "http://unix:/run/x.sock:/v1"),
    ("http://unix:/x:/api/v3/", BaseURL("http", "localhost", 80, "/api/v3", "/x"), "http://unix:/x:/api/v3"),
    ("http://unix/v1", BaseURL("http", "unix", 80, "/v1"), "http://unix/v1"),
    ("http://unix:8000/v1", BaseURL("http", "unix", 8000, "/v1"), "http://unix:8000/v1"),
]


@pytest.mark.parametrize(("text", "base", "shown"), GOOD, ids=[case[0] for case in GOOD])
def test_a_base_is_read_and_written(text: str, base: BaseURL, shown: str) -> None:
    assert parse_base(text) == base
    assert show_base(base) == shown
    assert parse_base(shown) == base


@pytest.mark.parametrize("text", ["https://api.perplexity.ai", "https://api.perplexity.ai/"])
def test_a_providers_own_root_stays_a_root(text: str) -> None:
    assert parse_base(text, root=True).path == ""
    assert parse_base("https://api.perplexity.ai/v2", root=True).path == "/v2"


SCHEME = "expected a URL that begins with http:// or https://"
USER = "a base holds no user or password; the key belongs into api_key"
REST = "a base holds no query and no fragment; extra_headers or the client can add what is needed"
PATH = "the path holds a space or another character that must be percent-encoded"
PORT = "the port must be a number from 1 to 65535"
BAD = [
    ("", SCHEME),
    ("localhost:8000/v1", SCHEME),
    ("ws://host/v1", SCHEME),
    ("https:/host/v1", SCHEME),
    ("https://[::1/v1", SCHEME),
    ("https://user:password@host/v1", USER),
    ("https://user@host/v1", USER),
    ("https://host/v1?a=b", REST),
    ("https://host?", REST),
    ("https://host/v1#a", REST),
    ("http://unix:/run/x.sock:/v1?a", REST),
    ("https://", "the URL names no host"),
    ("https:///v1", "the URL names no host"),
    ("https://hôst/v1", "write the host in ASCII (xn--...)"),
    ("https://ho st/v1", "the host is no host name"),
    ("https://-host/v1", "the host is no host name"),
    ("https://[::x]/v1", "the text in brackets is no IPv6 address"),
    ("https://[10.0.0.1]/v1", "the text in brackets is no IPv6 address"),
    ("https://host:0/v1", PORT),
    ("https://host:65536/v1", PORT),
    ("https://host:\uff18\uff10/v1", PORT),
    ("https://host:http/v1", PORT),
    ("https://host/a b", PATH),
    ("https://host/ä", PATH),
    ("https://host/a\tb", PATH),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[case[0] or "empty" for case in BAD])
def test_what_is_no_base_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_base(text)
    assert str(raised.value) == message


@settings(deadline=None)
@given(st.text(st.sampled_from("htps:/[]@?#.a1 é-unix"), max_size=30).map("http://".__add__) | st.text(max_size=20))
def test_what_is_read_is_written_as_it_was_meant(text: str) -> None:
    try:
        base = parse_base(text)
    except ValueError:
        return
    assert parse_base(show_base(base)) == base
    assert not base.path.endswith("/")
