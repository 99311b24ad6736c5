"""The URL space: mounts, joins, tricks, administration."""

from __future__ import annotations

import pytest

from relay.errors import BadRequest, Forbidden
from relay.requests.targets import Target, parse_target

RELAYED = [
    (b"/openai/chat/completions", b"/chat/completions", None),
    (b"/openai/v1/chat/completions", b"/chat/completions", None),
    (b"/v1/chat/completions", b"/chat/completions", None),
    (b"/openai/v1/v1/models", b"/v1/models", None),  # only one version is taken off
    (b"/openai/v1beta/x", b"/v1beta/x", None),
    (b"/v1/files?limit=2&after=", b"/files", b"limit=2&after="),
    (b"/v1/files?", b"/files", b""),
    (b"/v1/models/meta-llama%2FLlama-3", b"/models/meta-llama%2FLlama-3", None),
    (b"/v1/files/a%20b//c/%zz", b"/files/a%20b//c/%zz", None),
    (b"/v1/x?q=../..&r=%2e%2e", b"/x", b"q=../..&r=%2e%2e"),  # a query is no path
    (b"/v1/%252525252e", b"/%252525252e", None),  # no dot after three readings; nobody reads a fourth time
    (b"/v1/...", b"/...", None),
    (b"/v1/a..;b/..c;d", b"/a..;b/..c;d", None),
    (b"/v1/.well-known", b"/.well-known", None),
    (b"/v1/files/projects", b"/files/projects", None),
]


@pytest.mark.parametrize(("raw", "path", "query"), RELAYED)
def test_mounts_are_one_and_the_same_space(raw: bytes, path: bytes, query: bytes | None) -> None:
    assert parse_target(raw, allow_admin=False) == Target(path, query)


@pytest.mark.parametrize("raw", [b"/", b"/openai", b"/v1", b"/health/readiness", b"/openaix/y", b"/v2/x", b"//v1/x"])
def test_everything_else_is_not_relayed(raw: bytes) -> None:
    assert parse_target(raw, allow_admin=False) is None


TRICKS = [
    b"/v1/../admin",
    b"/v1/./x",
    b"/v1/x/..",
    b"/v1/%2e%2e/admin",
    b"/v1/%2E./admin",
    b"/v1/..%2fadmin",
    b"/v1/x%2f..%2f..",
    b"/v1/%252e%252e/admin",
    b"/v1/a\\b",
    b"/v1/a%5cb",
    b"/v1/a%00",
    b"/v1/a%0d%0aHost:x",
    b"/v1/%7f",
    b"/../v1/x",
    b"/v1/..;/admin",
    b"/v1/%2e%2e%3bx=y/admin",
]


@pytest.mark.parametrize("raw", TRICKS)
def test_a_path_with_two_readings_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="dot segments, backslashes or control"):
        parse_target(raw, allow_admin=False)


ADMIN = [
    b"/v1/organization",
    b"/v1/organization/users",
    b"/openai/projects/p/api_keys",
    b"/v1/Organization/users",
    b"/v1//organization/users",
    b"/openai/v1/v1/organization",
    b"/v1/%6frganization/users",
    b"/v1/organization%2fusers",
]


@pytest.mark.parametrize("raw", ADMIN)
def test_administration_is_denied_unless_opened(raw: bytes) -> None:
    with pytest.raises(Forbidden, match="allow_admin"):
        parse_target(raw, allow_admin=False)
    assert parse_target(raw, allow_admin=True) is not None


@pytest.mark.parametrize(
    ("base", "query", "joined"),
    [
        ("/v1", None, b"/v1/files"),
        ("", None, b"/files"),
        ("/openai/v1", b"", b"/openai/v1/files?"),
        ("/v1", b"a=1", b"/v1/files?a=1"),
    ],
)
def test_the_rest_is_joined_to_the_base(base: str, query: bytes | None, joined: bytes) -> None:
    assert Target(b"/files", query).joined(base) == joined
