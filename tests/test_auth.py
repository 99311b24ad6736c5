"""The key that a request carries."""

from __future__ import annotations

import pytest

from relay.config import Client, Config, Secret
from relay.errors import InvalidKey
from relay.requests.auth import authenticate
from relay.values import replace
from relay.wire.heads import Head

CONFIG = Config(groups={}, clients=(Client("master", Secret("sk-1234").digest), Client("other", Secret("sk-2").digest)))

CARRIED = [
    ([(b"Authorization", b"Bearer sk-1234")], "master"),
    ([(b"authorization", b"bearer sk-1234")], "master"),
    ([(b"AUTHORIZATION", b"BEARER   sk-1234")], "master"),
    ([(b"x-litellm-api-key", b"sk-1234")], "master"),
    ([(b"X-LiteLLM-Api-Key", b"Bearer sk-1234")], "master"),
    ([(b"api-key", b"sk-2")], "other"),
    ([(b"x-api-key", b"sk-2")], "other"),
    ([(b"Authorization", b"Bearer of-somebody-else"), (b"api-key", b"sk-2")], "other"),
    ([(b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key.sk-1234, x")], "master"),
]


@pytest.mark.parametrize(("fields", "name"), CARRIED)
def test_a_key_is_found_wherever_it_may_stand(fields: list[tuple[bytes, bytes]], name: str) -> None:
    assert authenticate(Head(b"1.1", fields), CONFIG).name == name


WRONG = [
    [(b"Authorization", b"Bearer sk-12345")],
    [(b"Authorization", b"Bearer ")],
    [(b"Authorization", b"Basic c2stMTIzNA==")],
    [(b"api-key", b"sk-1234"), (b"api-key", b"sk-1234")],  # combined, it is another key
    [(b"Sec-WebSocket-Protocol", b"realtime")],
    [(b"x-other", b"sk-1234")],
    [],
]


@pytest.mark.parametrize("fields", WRONG)
def test_anything_else_is_refused_without_repeating_it(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidKey) as caught:
        authenticate(Head(b"1.1", fields), CONFIG)
    assert "sk-1234" not in caught.value.message
    assert (b"WWW-Authenticate", b"Bearer") in caught.value.fields()


def test_the_file_can_name_another_field() -> None:
    config = replace(CONFIG, key_header="x-our-key")
    assert authenticate(Head(b"1.1", [(b"X-Our-Key", b"Bearer sk-2")]), config).name == "other"


def test_without_a_key_in_the_file_anybody_may_come() -> None:
    assert authenticate(Head(b"1.1", []), Config(groups={})).name == "anyone"
