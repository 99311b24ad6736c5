"""Kinds of resources: what an id is, what counts as one, and where it can be fetched."""

from __future__ import annotations

import pytest

from relay.subjects.resources import (
    ASKED_MODEL,
    BY_PREFIX,
    ENCRYPTED,
    HINT,
    ITEM_HINT,
    PREFIXES,
    SECRET,
    as_resource,
    kind_of,
    retrieve_path,
)
from relay.subjects.subject import Resource

AS_RESOURCE = [  # kind of the place, value, kind and place it counts with
    ("file", "file-abc", ("file", "here")),
    ("file", "assistant-abc", ("file", "here")),  # as another server names its files
    ("file", "cfile_abc", ("container_file", "here")),
    ("file", "run_1", None),
    ("file", "", None),
    ("file", "file-" + "a" * 507, ("file", "here")),
    ("file", "file-" + "a" * 508, None),
    ("admin_key", "key_1", ("admin_key", "here")),
    ("project_api_key", "key_1", ("project_api_key", "here")),
    ("item", "rs_1", ("item", "here")),
    ("item", "new_1", ("item", "here")),
    ("item", "__fake_id__", None),
    ("item", "item-1", None),
    (ITEM_HINT, "rs_1", ("item", HINT)),
    (ITEM_HINT, "1", None),
    (ENCRYPTED, "ek_1", (ENCRYPTED, "here")),
    (ENCRYPTED, "", None),
    (SECRET, "anything", (SECRET, "here")),
    ("model", "file-abc", None),
    (ASKED_MODEL, "ft:abc", ("model", "here")),
    (BY_PREFIX, "ft:gpt-3.5:o::1", ("model", "here")),
    (BY_PREFIX, "file_search", None),
    (BY_PREFIX, "file_a1", ("file", "here")),
    (BY_PREFIX, "file-1", ("file", "here")),
    (BY_PREFIX, "file-1 and more", None),
    (BY_PREFIX, "unknown_123", None),
]


@pytest.mark.parametrize(("kind", "value", "counts"), AS_RESOURCE)
def test_what_stands_at_a_place_becomes_a_resource(kind: str, value: str, counts: tuple[str, str] | None) -> None:
    found = as_resource(kind, value, "here")

    assert found == (None if counts is None else Resource(counts[0], value, counts[1]))


@pytest.mark.parametrize(("id_", "kind"), [
    ("asst_1", "assistant"), ("ft-event-1", "ft_event"), ("ftevent-1", "ft_event"), ("ft:x", "model"),
    ("svc_acct_1", "service_account"), ("svc_1", None), ("msg_1", "item"), ("user-1", "user"), ("asst-1", None),
    ("", None),
])  # fmt: skip
def test_prefixes_tell_kinds(id_: str, kind: str | None) -> None:
    assert kind_of(id_) == kind
    assert kind is None or any(id_.startswith(prefix) for prefix in PREFIXES)


@pytest.mark.parametrize(("kind", "id_", "path"), [
    ("file", "file-abc", "/files/file-abc"),
    ("model", "ft:gpt-4o:org/x::1", "/models/ft%3Agpt-4o%3Aorg%2Fx%3A%3A1"),
    ("model", "ft:gpt-4o:org::1", "/models/ft:gpt-4o:org::1"),
    ("response", "a/../b?c", "/responses/a%2F..%2Fb%3Fc"),
    ("response", "..", None), ("response", ".", None),
    ("upload", "upload_1", None), ("realtime_call", "rtc_1", None), ("item", "msg_1", None), ("voice", "voice_1", None),
    ("prompt", "pmpt_1", None), (ENCRYPTED, "x", None), ("unheard_of", "x", None),
])  # fmt: skip
def test_a_resource_is_fetched_at_its_own_path(kind: str, id_: str, path: str | None) -> None:
    assert retrieve_path(kind, id_) == path
