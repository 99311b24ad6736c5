"""The table of endpoints: what it says for known and for unknown paths, and that it says nothing by mistake."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.subjects import endpoints
from relay.subjects.endpoints import (
    OTHER,
    Endpoint,
    Harmless,
    find_path_model,
    find_query_value,
    is_harmless,
    is_resendable,
    location_resource,
    match_endpoint,
    path_resources,
    query_resources,
    shown_by,
)
from relay.subjects.operations import ADMINISTRATION, FAMILIES, OPERATIONS
from relay.subjects.resources import (
    ASKED_MODEL,
    ENCRYPTED,
    ITEM_HINT,
    OWN_PREFIXES,
    PATHS,
    RETRIEVE,
    SECRET,
    as_resource,
)
from relay.subjects.subject import Resource, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.subjects.pointers import Node

MATCHES = [  # method, path, template
    ("POST", "/chat/completions", "/chat/completions"),
    ("HEAD", "/files/file-abc", "/files/{file_id}"),
    ("DELETE", "/files/file-abc", "/files/{file_id}"),
    ("GET", "/files/file-abc/content", "/files/{file_id}/content"),
    ("POST", "/responses/compact", "/responses/compact"),
    ("GET", "/responses/compact", OTHER),  # a literal segment is not also an id
    ("GET", "/responses/resp_1", "/responses/{response_id}"),
    ("POST", "/threads/runs", "/threads/runs"),
    ("POST", "/threads/thread_1/runs", "/threads/{thread_id}/runs"),
    ("POST", "/fine_tuning/jobs/ftjob-1/pause", "/fine_tuning/jobs/{fine_tuning_job_id}/pause"),
    ("POST", "/videos/edits", "/videos/edits"),
    ("GET", "/videos/characters/char_1", "/videos/characters/{character_id}"),
    ("GET", "/models/gpt-4", "/models/{model}"),
    ("GET", "/models/meta-llama/Llama-3-8B", "/models/{model}"),  # SDKs of old sent the slash as it is
    ("GET", "/models/", "/models"),
    ("GET", "/files/", "/files"),
    ("GET", "/f%69les/file-abc", "/files/{file_id}"),
    ("GET", "/files//content", OTHER),  # no id
    ("GET", "/files/a/b/c", OTHER),
    ("PUT", "/files/file-abc", OTHER),
    ("GET", "/threads", OTHER),  # threads cannot be listed
    ("GET", "/organization/usage/images", "/organization/usage/images"),
    ("GET", "/future", OTHER),
    ("GET", "/", OTHER),
    ("GET", "", OTHER),
]


@pytest.mark.parametrize(("method", "path", "template"), MATCHES)
def test_paths_find_their_template(method: str, path: str, template: str) -> None:
    endpoint = match_endpoint(method, path)

    assert endpoint.template == template
    assert endpoint.method == ("GET" if method == "HEAD" else method)
    assert match_endpoint(method, path) is endpoint


KINDS_OF_ENDPOINT = [  # method, path, answer, stored, harmless, metered, lists
    ("POST", "/chat/completions", True, False, Harmless.UNLESS_STORED, True, None),
    ("POST", "/completions", True, False, Harmless.UNLESS_STORED, True, None),
    ("POST", "/embeddings", True, False, Harmless.ALWAYS, True, None),
    ("POST", "/moderations", True, False, Harmless.ALWAYS, False, None),
    ("POST", "/images/edits", True, False, Harmless.ALWAYS, True, None),
    ("POST", "/audio/speech", True, False, Harmless.ALWAYS, True, None),
    ("POST", "/audio/translations", True, False, Harmless.ALWAYS, True, None),
    ("POST", "/audio/voices", False, False, Harmless.NEVER, False, None),
    ("POST", "/responses", True, True, Harmless.IF_NOT_STORED, True, None),
    ("POST", "/responses/compact", True, True, Harmless.IF_NOT_STORED, True, None),
    ("POST", "/responses/input_tokens", True, False, Harmless.IF_NOT_STORED, False, None),
    ("POST", "/responses/resp_1/cancel", False, False, Harmless.NEVER, False, None),
    ("POST", "/realtime/client_secrets", True, False, Harmless.NEVER, False, None),
    ("POST", "/vector_stores/vs_1/search", False, False, Harmless.NEVER, False, None),
    ("POST", "/files", False, False, Harmless.NEVER, False, None),
    ("GET", "/files", False, False, Harmless.NEVER, False, "file"),
    ("GET", "/vector_stores/vs_1/files", False, False, Harmless.NEVER, False, None),
    ("GET", "/organization/projects", False, False, Harmless.NEVER, False, None),
    ("POST", "/future", False, False, Harmless.NEVER, False, None),
]


@pytest.mark.parametrize(("method", "path", "answer", "stored", "harmless", "metered", "lists"), KINDS_OF_ENDPOINT)
def test_each_endpoint_is_an_answer_or_workspace(
    method: str, path: str, answer: bool, stored: bool, harmless: Harmless, metered: bool, lists: str | None
) -> None:
    endpoint = match_endpoint(method, path)

    assert (endpoint.answer, endpoint.stored, endpoint.harmless) == (answer, stored, harmless)
    assert (endpoint.metered, endpoint.lists) == (metered, lists)


def test_thirteen_lists_may_be_merged() -> None:
    lists = [endpoint.template for endpoint in every_endpoint() if endpoint.lists]

    assert lists == [
        *("/assistants", "/audio/voice_consents", "/batches", "/chat/completions", "/chatkit/threads", "/containers"),
        *("/evals", "/files", "/fine_tuning/jobs", "/models", "/skills", "/vector_stores", "/videos"),
    ]


def test_only_the_socket_of_responses_names_its_model_in_a_frame() -> None:
    assert [one.template for one in every_endpoint() if one.first_frame] == ["/responses"]
    assert kind_at(match_endpoint("GET", "/responses").body, "/previous_response_id") == "response"


def test_ephemeral_keys_are_good_for_realtime_paths_known_or_not() -> None:
    for endpoint in every_endpoint():
        fields = {"authorization": SECRET, "sec-websocket-protocol": SECRET}
        assert endpoint.header_ids == (fields if endpoint.template.startswith("/realtime") else {})
    future = match_endpoint("GET", "/realtime/dreams")
    assert (future.template, future.answer, future.header_ids["authorization"]) == (OTHER, True, SECRET)
    assert match_endpoint("GET", "/surrealtime").header_ids == {}


IDS_OF_PATHS = [  # method, path, (kind, id) of each
    ("GET", "/files/file-abc", [("file", "file-abc")]),
    ("GET", "/files/anything", [("file", "anything")]),  # another server's ids may look otherwise
    ("GET", "/files/file%2Dabc", [("file", "file-abc")]),
    ("GET", "/files/file-abc/", [("file", "file-abc")]),
    ("GET", "/threads/thread_1/runs/run_1/steps/step_1", [("thread", "thread_1")]),
    ("GET", "/vector_stores/vs_1/files/file-1", [("vector_store", "vs_1"), ("file", "file-1")]),
    ("GET", "/vector_stores/vs_1/file_batches/vsfb_1", [("vector_store", "vs_1")]),
    ("GET", "/containers/cntr_1/files/cfile_1", [("container", "cntr_1")]),
    ("GET", "/chatkit/threads/cthr_1/items", [("chatkit_thread", "cthr_1")]),
    ("POST", "/chatkit/sessions/cksess_1/cancel", [("chatkit_session", "cksess_1")]),
    ("POST", "/realtime/calls/rtc_1/hangup", [("realtime_call", "rtc_1")]),
    ("DELETE", "/models/ft:gpt-4o:org::abc", [("model", "ft:gpt-4o:org::abc")]),
    ("GET", "/models/ft%3Agpt-4o:org%2Fx::abc/", [("model", "ft:gpt-4o:org/x::abc")]),
    ("GET", "/models/ft:org/x", [("model", "ft:org/x")]),
    ("GET", "/models/gpt-4", []),
    (
        "GET",
        "/fine_tuning/checkpoints/ft:gpt-4o:o::a:ckpt-step-9/permissions",
        [("model", "ft:gpt-4o:o::a:ckpt-step-9")],
    ),
    ("GET", "/organization/projects/proj_1/groups/group_1", [("project", "proj_1")]),
    ("POST", "/chat/completions", []),
    ("GET", "/future/asst_abc123/things", [("assistant", "asst_abc123")]),
    ("PUT", "/threads/thread_a1b2/runs/run_a1b2", [("thread", "thread_a1b2"), ("run", "run_a1b2")]),
    ("GET", "/future/file_search/vs_%41bcd/video_generation", [("vector_store", "vs_Abcd")]),
    ("GET", "/file_search_calls", []),
    ("GET", "/future/gpt-4", []),
]


@pytest.mark.parametrize(("method", "path", "named"), IDS_OF_PATHS)
def test_paths_name_resources(method: str, path: str, named: list[tuple[str, str]]) -> None:
    found = path_resources(match_endpoint(method, path), path)

    assert list(found) == [Resource(kind, id_, "path") for kind, id_ in named]


IDS_OF_QUERIES = [  # method, path, query, (kind, id) of each
    ("GET", "/files", "limit=20&after=file-abc&order=asc", [("file", "file-abc")]),
    ("GET", "/files", "after=file%2Dabc", [("file", "file-abc")]),
    ("GET", "/files", "after=&after", []),
    ("GET", "/files", "", []),
    ("GET", "/files/file-abc", "after=file-x", []),
    ("GET", "/chat/completions", "model=gpt-4o", []),
    ("GET", "/chat/completions", "model=ft:gpt-4o:o::1", [("model", "ft:gpt-4o:o::1")]),
    ("GET", "/realtime", "model=gpt-realtime&call_id=rtc_1", [("realtime_call", "rtc_1")]),
    ("GET", "/threads/thread_1/messages", "after=msg_1&run_id=run_1", []),  # the thread pins them
    ("GET", "/organization/costs", "project_ids[]=proj_1&project_ids%5B%5D=proj_2&project_ids=proj_3",
     [("project", "proj_1"), ("project", "proj_2"), ("project", "proj_3")]),
    ("GET", "/organization/usage/completions", "user_ids=user-1", []),
    ("GET", "/fine_tuning/checkpoints/ft:m/permissions", "project_id=proj_1", []),
    ("GET", "/future", "after=asst_abc123&q=asst_abc123", [("assistant", "asst_abc123")]),
    ("GET", "/future", "after=whatever", []),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "query", "named"), IDS_OF_QUERIES)
def test_queries_name_resources(method: str, path: str, query: str, named: list[tuple[str, str]]) -> None:
    found = query_resources(match_endpoint(method, path), query)

    assert list(found) == [Resource(kind, id_, "query") for kind, id_ in named]


MODELS_OF_PATHS = [  # path, model, the bytes to splice
    ("/models/gpt-4", "gpt-4", "gpt-4"),
    ("/models/gpt%2D4/", "gpt-4", "gpt%2D4"),
    ("/models/org/name", "org/name", "org/name"),
]


@pytest.mark.parametrize(("path", "model", "raw"), MODELS_OF_PATHS)
def test_a_path_names_a_model_and_where_it_stands(path: str, model: str, raw: str) -> None:
    found = find_path_model(match_endpoint("GET", path), path)

    assert found is not None
    assert (found[0], path[found[1] : found[2]]) == (model, raw)


def test_other_paths_name_no_model() -> None:
    assert find_path_model(match_endpoint("GET", "/models"), "/models") is None
    assert find_path_model(match_endpoint("GET", "/files/gpt-4"), "/files/gpt-4") is None


MODELS_OF_QUERIES = [  # query, model, the bytes to splice
    ("model=gpt-4", "gpt-4", "gpt-4"),
    ("a=1&&mod%65l=gpt%2D4&model=second", "gpt-4", "gpt%2D4"),
    ("model=", "", ""),
    ("a=model=x&model", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("query", "model", "raw"), MODELS_OF_QUERIES)
def test_a_query_names_a_model_and_where_it_stands(query: str, model: str | None, raw: str | None) -> None:
    found = find_query_value(query, "model")

    assert (found and (found[0], query[found[1] : found[2]])) == (None if model is None else (model, raw))


PLACES = [  # method, path, tree, pointer, value, the resource it counts as
    ("POST", "/responses", "body", "/previous_response_id", "resp_1", ("response", "resp_1")),
    ("POST", "/responses", "body", "/conversation", "conv_1", ("conversation", "conv_1")),
    ("POST", "/responses", "body", "/conversation/id", "conv_1", ("conversation", "conv_1")),
    ("POST", "/responses", "body", "/tools/*/container", "cntr_1", ("container", "cntr_1")),
    ("POST", "/responses", "body", "/tools/*/container/file_ids/*", "file-1", ("file", "file-1")),
    (
        "POST",
        "/responses",
        "body",
        "/input/*/content/*/annotations/*/file_id",
        "cfile_1",
        ("container_file", "cfile_1"),
    ),
    ("POST", "/responses", "body", "/prompt/variables/anything/file_id", "file-1", ("file", "file-1")),
    ("POST", "/responses", "body", "/input/*/encrypted_content", "gAAA=", (ENCRYPTED, "gAAA=")),
    ("POST", "/responses", "body", "/input/*/content/*/text", "file-1", None),
    ("POST", "/responses", "body", "/instructions", "file-1", None),
    ("POST", "/responses", "body", "/metadata/file_id", "file-1", None),
    ("POST", "/responses", "body", "/input", "file-1", None),
    ("POST", "/responses", "body", "/model", "gpt-4", None),
    ("POST", "/responses", "body", "/model", "ft:gpt-4:o::1", ("model", "ft:gpt-4:o::1")),
    ("POST", "/responses", "body", "/input/*/approval_request_id", "mcpr_1", ("item", "mcpr_1")),
    ("POST", "/realtime/client_secrets", "body", "/session/model", "ft:x", ("model", "ft:x")),
    ("POST", "/realtime/calls", "form", "/session/tools/*/tunnel_id", "anything", ("mcp_tunnel", "anything")),
    ("POST", "/audio/voices", "form", "/consent", "cons_1", ("voice_consent", "cons_1")),
    ("POST", "/videos/edits", "form", "/video/id", "video_1", ("video", "video_1")),
    ("POST", "/videos/edits", "body", "/video/id", "video_1", ("video", "video_1")),
    ("POST", "/threads/runs", "response", "/id", "thread_1", ("thread", "thread_1")),
    ("POST", "/threads/runs", "response", "/id", "run_1", None),  # the thread pins it
    ("POST", "/threads/runs", "response", "/id", "msg_1", None),  # a thread's, not an item
    ("POST", "/threads/runs", "response", "/id", "0815", None),
    ("POST", "/responses", "response", "/item/id", "msg_1", ("item", "msg_1")),
    ("POST", "/responses", "response", "/response/output/*/encrypted_content", "gAAA=", (ENCRYPTED, "gAAA=")),
    ("POST", "/vector_stores/vs_1/files", "response", "/id", "file-1", ("file", "file-1")),
    ("GET", "/models", "response", "/data/*/id", "gpt-4", None),
    ("GET", "/models", "response", "/data/*/id", "ft:x", ("model", "ft:x")),
    ("POST", "/realtime/sessions", "response", "/client_secret/value", "ek_1", (SECRET, "ek_1")),
    ("POST", "/chatkit/sessions", "response", "/client_secret", "ek_1", None),  # no key to any path of the API
    ("POST", "/future", "body", "/assistant_id", "asst_abc1", ("assistant", "asst_abc1")),
    ("POST", "/future", "body", "/assistant_id", "anything", None),
    ("POST", "/future", "body", "/input/*/encrypted_content", "gAAA=", (ENCRYPTED, "gAAA=")),
    ("POST", "/future", "body", "/prompt", "asst_abc1", None),
    ("POST", "/future", "form", "/consent", "cons_abc1", ("voice_consent", "cons_abc1")),
    ("POST", "/future", "response", "/id", "run_abc123", ("run", "run_abc123")),
    ("POST", "/future", "response", "/value", "a secret", None),
    ("POST", "/future", "unstored", "/data/*/id", "batch_abc1", ("batch", "batch_abc1")),
]


@pytest.mark.parametrize(("method", "path", "tree", "pointer", "value", "counts"), PLACES)
def test_a_value_at_a_place_counts_or_does_not(
    method: str, path: str, tree: str, pointer: str, value: str, counts: tuple[str, str] | None
) -> None:
    kind = kind_at(getattr(match_endpoint(method, path), tree), pointer)
    found = as_resource(kind, value, "body") if kind else None

    assert (found and (found.kind, found.id)) == counts


@pytest.mark.parametrize(("location", "id_"), [
    ("/v1/realtime/calls/rtc_1", "rtc_1"), ("https://host.example/v1/realtime/calls/rtc_1?x=a/b", "rtc_1"), ("", None),
])  # fmt: skip
def test_a_location_shows_a_call(location: str, id_: str | None) -> None:
    found = location_resource(match_endpoint("POST", "/realtime/calls"), location)

    assert (found and found.id) == id_
    assert location_resource(match_endpoint("POST", "/files"), location) is None


REPEATS = [  # method, path, what else the request says, harmless, resendable
    ("GET", "/files", {}, True, True),
    ("HEAD", "/files", {}, True, True),
    ("DELETE", "/files/file-1", {}, True, True),
    ("PUT", "/future", {}, False, True),
    ("PATCH", "/future", {}, False, False),
    ("POST", "/files", {}, False, False),
    ("POST", "/files", {"idempotency_key": True}, True, True),
    ("POST", "/embeddings", {}, True, True),
    ("POST", "/chat/completions", {}, True, True),
    ("POST", "/chat/completions", {"store": False}, True, True),
    ("POST", "/chat/completions", {"store": True}, False, False),
    ("POST", "/completions", {}, True, True),
    ("POST", "/responses", {}, False, False),
    ("POST", "/responses", {"store": True}, False, False),
    ("POST", "/responses", {"store": False}, True, True),
    ("POST", "/responses", {"store": False, "background": True}, False, False),
    ("POST", "/future", {"store": False}, False, False),
]


@pytest.mark.parametrize(("method", "path", "said", "harmless", "resendable"), REPEATS)
def test_what_may_be_sent_twice(
    method: str, path: str, said: dict[str, bool], harmless: bool, resendable: bool
) -> None:
    subject = Subject(match_endpoint(method, path))
    for name, value in said.items():
        setattr(subject, name, value)

    assert (is_harmless(subject), is_resendable(subject)) == (harmless, resendable)


@pytest.mark.parametrize(("path", "store", "pointer", "kind"), [
    ("/chat/completions", True, "/id", "chat_completion"),
    ("/chat/completions", None, "/id", None),
    ("/chat/completions", None, "/choices/*/delta/audio/id", "chat_audio"),
    ("/responses", None, "/response/id", "response"),
    ("/responses", True, "/item/id", "item"),
    ("/responses", False, "/response/id", None),
    ("/responses", False, "/item/id", None),
    ("/responses", False, "/item/encrypted_content", ENCRYPTED),
    ("/files", False, "/id", "file"),
])  # fmt: skip
def test_the_id_of_an_answer_that_is_not_stored_is_not_kept(
    path: str, store: bool | None, pointer: str, kind: str | None
) -> None:
    subject = Subject(match_endpoint("POST", path), store=store)

    assert kind_at(shown_by(subject), pointer) == kind


SEGMENTS = ["", "files", "file-1", "models", "threads", "content", "realtime", "calls", "%2F", "%", "a/b", "ft:a", "é"]


@given(st.sampled_from(["GET", "POST", "QUERY"]), st.lists(st.sampled_from(SEGMENTS), max_size=6), st.text(max_size=20))
def test_no_path_and_no_query_is_too_odd(method: str, segments: list[str], query: str) -> None:
    path = "/" + "/".join(segments)
    endpoint = match_endpoint(method, path)
    found = find_path_model(endpoint, path)

    assert all(resource.id for resource in path_resources(endpoint, path) + query_resources(endpoint, query))
    assert found is None or 0 <= found[1] <= found[2] <= len(path)


# The tables themselves


def every_endpoint() -> list[Endpoint]:
    found = []
    for methods, template, _ in endpoints._gather_operations(OPERATIONS + ADMINISTRATION):
        found += [match_endpoint(method, filled(template)[0]) for method in methods]
    return found


def filled(template: str) -> tuple[str, dict[str, str]]:
    """A path with an id for each parameter, and the ids."""
    ids: dict[str, str] = {}
    for segment in template.split("/"):
        if segment.startswith("{"):
            ids[segment] = "ft:abc" if "model" in segment else f"id{len(ids)}"
            template = template.replace(segment, ids[segment])
    return template, ids


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from walk(child)


def kind_at(tree: Node, pointer: str) -> str | None:
    node: Node | None = tree
    for key in pointer.split("/")[1:]:
        node = node.child(key) if node else None
    return node.kind if node else None


def test_every_kind_that_a_place_is_declared_with_exists() -> None:
    known = {*OWN_PREFIXES, ASKED_MODEL, ITEM_HINT}
    for endpoint in every_endpoint():
        trees = (endpoint.body, endpoint.form, endpoint.response, endpoint.unstored)
        kinds = {node.kind for tree in trees for node in walk(tree) if node.kind}
        kinds |= {*endpoint.query_ids.values(), *filter(None, (endpoint.lists, endpoint.location))}
        assert kinds <= known, endpoint.template


def test_every_word_of_the_tables_is_known() -> None:
    words = {"answer", "stored", "harmless", "metered", "list", "query", "body", "form", "both", "shows"}
    words |= {"unstored", "location", "secret", "first-frame"}
    used = set()
    for methods, template, clauses in endpoints._gather_operations(OPERATIONS + ADMINISTRATION):
        used |= {clause.partition(" ")[0] for clause in clauses}
        assert set(methods) <= {"GET", "POST", "DELETE"}, template
        names = [clause.partition(" ")[0] for clause in clauses]
        assert len(names) == len(set(names)), template
    assert used == words
    text = " ".join((OPERATIONS, *FAMILIES.values())).replace(";", " ").split()
    assert set(FAMILIES) <= {*text, "USAGE"}


def test_every_operation_stands_once() -> None:
    found = Counter((endpoint.method, endpoint.template) for endpoint in every_endpoint())

    assert set(found.values()) == {1}
    assert len(found) == 283  # of 290 in the CSV, seven stand twice there, with ``?beta=true``


def test_every_path_of_a_kind_is_the_path_of_an_operation() -> None:
    reached = set()
    for endpoint in every_endpoint():
        for index, kind in endpoint.path_ids:
            path = "/".join(endpoint.template.split("/")[: index + 1])
            assert PATHS[path] == kind
            reached.add(path)
    assert reached == set(PATHS)


def test_what_can_be_fetched_is_fetched_by_one_id() -> None:
    for kind, template in RETRIEVE.items():
        endpoint = match_endpoint("GET", filled(template)[0])
        assert endpoint.template == template
        assert [found for _, found in endpoint.path_ids] == [kind]
