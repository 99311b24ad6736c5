"""Kinds of resources: how their ids look, where they stand in paths, which of them can be fetched (SPEC §5).

One id has one kind wherever it is seen, so that ``(kind, id)`` is a key: items of responses and of conversations are
``item``, the files of a vector store are ``file``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..patterns import late
from .subject import Resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Each line: the kind, the prefixes of its ids, and the path of one; GET says that it can be fetched there, so that a
# scope can be asked for it. A kind without a path, or without GET, can only be looked for by trying (SPEC §5,
# Discovery). More lines of a kind are more paths.
KINDS = """
assistant         asst_                  GET /assistants/{assistant_id}
batch             batch_                 GET /batches/{batch_id}
chat_audio        audio_
chat_completion   chatcmpl-              GET /chat/completions/{completion_id}
chatkit_session   cksess_                    /chatkit/sessions/{session_id}
chatkit_thread    cthr_                  GET /chatkit/threads/{thread_id}
chatkit_workflow  wf_
client_secret     ek_
container         cntr_                  GET /containers/{container_id}
container_file    cfile_
conversation      conv_                  GET /conversations/{conversation_id}
encrypted_content
eval              eval_                  GET /evals/{eval_id}
file              file- file_            GET /files/{file_id}
file                                         /vector_stores/{vector_store_id}/files/{file_id}
ft_job            ftjob-                 GET /fine_tuning/jobs/{fine_tuning_job_id}
item              msg_ rs_ fc_ fco_ ws_ fs_ ci_ ig_ cu_ sh_ lsh_ mcp_ mcpl_ mcpr_ ctc_ cmp_
mcp_tunnel
model             ft:                    GET /models/{model}
model                                        /fine_tuning/checkpoints/{fine_tuned_model_checkpoint}
prompt            pmpt_
realtime_call     rtc_                       /realtime/calls/{call_id}
response          resp_                  GET /responses/{response_id}
skill             skill_                 GET /skills/{skill_id}
thread            thread_                GET /threads/{thread_id}
upload            upload_                    /uploads/{upload_id}
vector_store      vs_                    GET /vector_stores/{vector_store_id}
video             video_                 GET /videos/{video_id}
video_character   char_                  GET /videos/characters/{character_id}
voice             voice_
voice_consent     cons_                  GET /audio/voice_consents/{consent_id}
project_api_key   key_
admin_key         key_                   GET /organization/admin_api_keys/{key_id}
certificate       cert_                  GET /organization/certificates/{certificate_id}
group             group_                 GET /organization/groups/{group_id}
invite            invite-                GET /organization/invites/{invite_id}
project           proj_                  GET /organization/projects/{project_id}
project                                      /projects/{project_id}
role              role_                  GET /organization/roles/{role_id}
spend_alert       alert_                 GET /organization/spend_alerts/{alert_id}
user              user- user_            GET /organization/users/{user_id}
"""

# Kinds whose ids are only ever named below their parent's path, which pins them ("child ids follow their parents"), or
# never again. They are not kept. In a path that the tables do not know they count all the same: parents may be missing.
CHILDREN = """
chatkit_item             cthi_
eval_output_item         outputitem_
eval_run                 evalrun_
ft_checkpoint            ftckpt_
ft_checkpoint_permission cp_
ft_event                 ftevent- ft-event-
message                  msg_
rate_limit               rl-
realtime_session         sess_
run                      run_
run_step                 step_
service_account          svc_acct_
skill_version            skillver_
upload_part              part_
vector_store_file_batch  vsfb_
"""

# What a place may be declared as beside a kind.
BY_PREFIX = "?"  # the place says nothing: the id's own prefix does, or it is no id
ITEM_HINT = "item_hint"  # an item's id beside its content: see HINT
ASKED_MODEL = "asked_model"  # the model that a request asks for, where that is no top-level member

# The place of a Resource that pins where nothing else does, never conflicts, and is not looked for beforehand: most
# items of an ``input`` hold their content, so that their ids bind them to nothing; a bare reference looks the same
# until its last member has passed.
HINT = "hint"

ENCRYPTED = "encrypted_content"
SECRET = "client_secret"  # noqa: S105 - the name of a kind
HASHED = frozenset({ENCRYPTED, SECRET})  # too long, or too secret, to be kept as they are: only their hash is

TOKEN = re.compile(r"[a-z]+[_:-]")  # how every prefix begins
# A known prefix alone is no id: ``file_search`` and ``video_generation`` are words. Ids hold a digit or a capital.
LOOKS_LIKE_ID = late(r"(?=.*[0-9A-Z])[0-9A-Za-z_:.-]{6,}")
# Applications put words of their own where an item's id goes (``__fake_id__``, ``item-1``, a UUID).
LOOKS_LIKE_ITEM = late(r"[a-z]{1,16}_[0-9A-Za-z_-]+")
UNRESERVED = late(r"[0-9A-Za-z_:.~-]+")  # needs no escape in a segment (RFC 3986 §3.3)
LONGEST_ID = 512  # what is longer is no id; those of OpenAI are below 80
OWNED_MODEL = "ft:"  # other models are everybody's


def _lines(table: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Kind, prefixes, and ``[GET, path]``, ``[path]`` or nothing, of every line of a table."""
    for line in filter(None, table.splitlines()):
        kind, *words = line.split()
        prefixes = [word for word in words if word[-1] in "_-:"]
        yield kind, prefixes, words[len(prefixes) :]


def _gather() -> tuple[dict[str, str], dict[str, tuple[str, ...]], dict[str, str], dict[str, str]]:
    by_prefix: dict[str, str] = {}
    own: dict[str, tuple[str, ...]] = {}
    paths: dict[str, str] = {}
    retrieve: dict[str, str] = {}
    for kind, prefixes, place in _lines(KINDS + CHILDREN):
        own.setdefault(kind, tuple(prefixes))
        for prefix in prefixes:
            by_prefix.setdefault(prefix, kind)  # ``msg_`` may be an item or a thread's message: the kept one
        if place:
            paths[place[-1]] = kind
        if len(place) > 1:
            retrieve[kind] = place[-1]
    return by_prefix, own, paths, retrieve


PREFIXES: Mapping[str, str]  # "asst_" -> "assistant"
OWN_PREFIXES: Mapping[str, tuple[str, ...]]  # "file" -> ("file-", "file_")
PATHS: Mapping[str, str]  # "/files/{file_id}" -> "file"; what stands below a path's parent is not in here
RETRIEVE: Mapping[str, str]  # "file" -> "/files/{file_id}"; absent for kinds that cannot be fetched
PREFIXES, OWN_PREFIXES, PATHS, RETRIEVE = _gather()
_CHILD_KINDS = frozenset(kind for kind, _, _ in _lines(CHILDREN))
_BY_TOKEN: dict[str, list[tuple[str, str]]] = {}
for _prefix, _kind in PREFIXES.items():
    _BY_TOKEN.setdefault(TOKEN.match(_prefix)[0], []).append((_prefix, _kind))  # type: ignore[index]


def kind_of(value: str) -> str | None:
    """The kind that an id's prefix tells, or None."""
    token = TOKEN.match(value)
    if token is not None:
        for prefix, kind in _BY_TOKEN.get(token[0], ()):
            if value.startswith(prefix):
                return kind
    return None


def retrieve_path(kind: str, id: str) -> str | None:  # noqa: A002 - the API's word
    """The path of a GET that shows whether ``id`` exists, percent-encoded; None for kinds without one."""
    template = RETRIEVE.get(kind)
    if template is None or id in (".", ".."):  # a path to somewhere else (RFC 3986 §5.2.4), even when escaped
        return None
    if not UNRESERVED.fullmatch(id):
        from urllib.parse import quote  # rare, and slow to import

        id = quote(id, safe="")  # noqa: A001
    return template[: template.index("{")] + id


def as_resource(kind: str, value: str, place: str) -> Resource | None:
    """What the ``value`` found at a place for ``kind`` counts as: every id found anywhere goes through here.

    None where it does not count: a model that is nobody's own, a child id that its parent's path pins already, text
    that is no id. The kind is corrected where the id's prefix says better (``cfile_`` where a ``file`` may stand), so
    that one id has one kind wherever it is seen.
    """
    if kind in HASHED:
        return Resource(kind, value, place) if value else None
    if not 0 < len(value) <= LONGEST_ID:
        return None
    if kind in ("model", ASKED_MODEL):
        return Resource("model", value, place) if value.startswith(OWNED_MODEL) else None
    if kind == BY_PREFIX:
        told = kind_of(value)
        return Resource(told, value, place) if told and LOOKS_LIKE_ID.fullmatch(value) else None
    if kind == ITEM_HINT:
        kind, place = "item", HINT
    if not value.startswith(OWN_PREFIXES[kind]):
        kind = kind_of(value) or kind
    if kind in _CHILD_KINDS or (kind == "item" and not LOOKS_LIKE_ITEM.fullmatch(value)):
        return None
    return Resource(kind, value, place)
