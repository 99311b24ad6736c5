"""Vector stores: their files, batches of files, and a search by shared words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .messages import JSON, APIError
from .projects import missing, page
from .resources import delete, listing, plain, retrieve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .messages import Call
    from .projects import Project
    from .routes import Routes

TEXT_MOST = 8 << 10  # bytes of a file that are searched
WORD = re.compile(r"\w+")
STATES = ("in_progress", "completed", "failed", "cancelled", "total")


def new_store(project: Project, body: JSON | None, file_ids: Iterable[str]) -> JSON:
    """Make a vector store and put files into it."""
    body = body or {}
    now = project.world.now()
    members: JSON = {
        "name": body.get("name"), "description": body.get("description"), "usage_bytes": 0, "status": "completed",
        "file_counts": dict.fromkeys(STATES, 0), "expires_after": body.get("expires_after"), "expires_at": None,
        "last_active_at": now, "metadata": body.get("metadata") or {},
    }  # fmt: skip
    store = project.new("vector_store", **members)
    for id_ in file_ids:
        add_file(project, store, id_, {})
    return store


def add_file(project: Project, store: JSON, id_: str, body: JSON) -> JSON:
    """Put one file of the project into a store. It is ready at the first look at it."""
    source = project.shelf("file").get(id_)
    if source is None:
        raise missing("file", id_)
    thing: JSON = {
        "id": id_, "object": "vector_store.file", "created_at": project.world.now(), "usage_bytes": source["bytes"],
        "vector_store_id": store["id"], "status": "in_progress", "last_error": None,
        "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}},
        "attributes": body.get("attributes") or {},
    }  # fmt: skip
    project.put("vector_store_file", thing, store["id"])
    count(project, store)
    return thing


def count(project: Project, store: JSON) -> None:
    """Bring a store's counts up to date."""
    files = project.shelf("vector_store_file", store["id"]).values()
    counts = dict.fromkeys(STATES, 0)
    for file in files:
        counts[file["status"]] += 1
    counts["total"] = len(files)
    state = "in_progress" if counts["in_progress"] else "completed"
    store.update(file_counts=counts, usage_bytes=sum(file["usage_bytes"] for file in files), status=state)


def settle(project: Project, store: JSON) -> None:
    """Finish the files of a store that are under way."""
    for file in project.shelf("vector_store_file", store["id"]).values():
        if file["status"] == "in_progress":
            file["status"] = "completed"
    count(project, store)


def create_store(call: Call) -> JSON:
    """``POST /vector_stores``."""
    call.project.check_references(call.body)
    return new_store(call.project, call.body, call.body.get("file_ids") or ())


def retrieve_store(call: Call) -> JSON:
    """``GET /vector_stores/{id}``."""
    settle(call.project, call.things["vector_store"])
    return call.things["vector_store"]


def create_store_file(call: Call) -> JSON:
    """``POST /vector_stores/{id}/files``."""
    return add_file(call.project, call.things["vector_store"], call.require("file_id"), call.body)


def retrieve_store_file(call: Call) -> JSON:
    """``GET /vector_stores/{id}/files/{file_id}``."""
    settle(call.project, call.things["vector_store"])
    return call.things["vector_store_file"]


def update_store_file(call: Call) -> JSON:
    """``POST /vector_stores/{id}/files/{file_id}``: only its attributes change."""
    call.things["vector_store_file"]["attributes"] = call.require("attributes")
    return call.things["vector_store_file"]


def delete_store_file(call: Call) -> JSON:
    """``DELETE /vector_stores/{id}/files/{file_id}``: the file itself stays."""
    answer = delete("vector_store.file.deleted")(call)
    count(call.project, call.things["vector_store"])
    assert isinstance(answer, dict)
    return answer


def text_in(project: Project, id_: str) -> str:
    """The beginning of a file's content, as text."""
    content = project.attached.get(id_)
    if content is None or not content.whole:
        return ""
    first: bytes = next(content.pieces(), b"")
    return first[:TEXT_MOST].decode(errors="replace")


def store_file_content(call: Call) -> JSON:
    """``GET /vector_stores/{id}/files/{file_id}/content``."""
    text = text_in(call.project, call.args["vector_store_file"])
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": text}],
        "has_more": False,
        "next_page": None,
    }


def create_file_batch(call: Call) -> JSON:
    """``POST /vector_stores/{id}/file_batches``."""
    store, project = call.things["vector_store"], call.project
    project.check_references(call.body)
    given = [*(call.body.get("files") or ()), *({"file_id": id_} for id_ in call.body.get("file_ids") or ())]
    if not given:
        raise APIError(400, "Missing required parameter: 'file_ids'.", param="file_ids")
    files = [add_file(project, store, file["file_id"], file) for file in given]
    batch = project.new(
        "vector_store_batch", store["id"], vector_store_id=store["id"], status="in_progress", file_counts={}
    )
    project.attached[batch["id"]] = files
    count_batch(batch, files)

    def finish() -> None:
        settle(project, store)
        count_batch(batch, files)
        batch["status"] = "completed"

    project.begin(batch["id"], finish)
    return batch


def count_batch(batch: JSON, files: list[JSON]) -> None:
    """Bring a batch's counts up to date."""
    counts = dict.fromkeys(STATES, 0)
    for file in files:
        counts[file["status"]] += 1
    batch["file_counts"] = {**counts, "total": len(files)}


def cancel_file_batch(call: Call) -> JSON:
    """``POST .../cancel``."""
    batch = call.things["vector_store_batch"]
    if call.project.work.pop(batch["id"], None) is not None:
        for file in call.project.attached[batch["id"]]:
            file["status"] = "cancelled"
        batch["status"] = "cancelled"
        count_batch(batch, call.project.attached[batch["id"]])
        count(call.project, call.things["vector_store"])
    return batch


def list_batch_files(call: Call) -> JSON:
    """``GET .../file_batches/{id}/files``."""
    return page("vector_store_file", call.project.attached[call.args["vector_store_batch"]], call.query)


def search(call: Call) -> JSON:
    """``POST /vector_stores/{id}/search``: files that share words with the query, the most similar first."""
    query = call.require("query")
    wanted = set(WORD.findall(" ".join([query] if isinstance(query, str) else query).lower()))
    settle(call.project, call.things["vector_store"])
    found = []
    for file in call.project.shelf("vector_store_file", call.args["vector_store"]).values():
        source = call.project.shelf("file").get(file["id"])
        text = text_in(call.project, file["id"])
        score = len(wanted & set(WORD.findall(text.lower()))) / max(1, len(wanted))
        if source is not None and score:
            found.append(search_result(source, file, text, score))
    found.sort(key=lambda result: -result["score"])
    most = int(call.body.get("max_num_results") or 10)
    return {
        "object": "vector_store.search_results.page", "search_query": [query] if isinstance(query, str) else query,
        "data": found[:most], "has_more": len(found) > most, "next_page": None,
    }  # fmt: skip


def search_result(source: JSON, file: JSON, text: str, score: float) -> dict[str, Any]:
    """One hit."""
    content = [{"type": "text", "text": text[:800]}]
    return {
        "file_id": source["id"],
        "filename": source["filename"],
        "score": score,
        "attributes": file["attributes"],
        "content": content,
    }


ROUTES: Routes = {
    **plain("/vector_stores", "vector_store", "vector_store.deleted"),
    "POST /vector_stores": create_store,
    "GET /vector_stores/{vector_store}": retrieve_store,
    "POST /vector_stores/{vector_store}/files": create_store_file,
    "GET /vector_stores/{vector_store}/files": listing("vector_store_file"),
    "GET /vector_stores/{vector_store}/files/{vector_store_file}": retrieve_store_file,
    "POST /vector_stores/{vector_store}/files/{vector_store_file}": update_store_file,
    "DELETE /vector_stores/{vector_store}/files/{vector_store_file}": delete_store_file,
    "GET /vector_stores/{vector_store}/files/{vector_store_file}/content": store_file_content,
    "POST /vector_stores/{vector_store}/file_batches": create_file_batch,
    "GET /vector_stores/{vector_store}/file_batches/{vector_store_batch}": retrieve,
    "POST /vector_stores/{vector_store}/file_batches/{vector_store_batch}/cancel": cancel_file_batch,
    "GET /vector_stores/{vector_store}/file_batches/{vector_store_batch}/files": list_batch_files,
    "POST /vector_stores/{vector_store}/search": search,
}
