"""Files, uploads in parts, and batches."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from .bodies import MIB, PIECE, Blob, Joined
from .messages import JSON, MALFORMED, Answer, APIError, malformed
from .projects import page
from .resources import retrieve

if TYPE_CHECKING:
    from .messages import Call
    from .projects import Project
    from .routes import Handler, Routes

# Every project has these: so many MiB of the same 64 KiB, made as they are sent.
SYNTHETIC = re.compile(r"file-synthetic-(\d{1,5})MiB")
SYNTHETIC_PIECE = b"".join(sha256(b"%d" % number).digest() for number in range(PIECE // 32))
UPLOAD_MOST = 8 << 30


def new_file(project: Project, name: str, purpose: str, content: Blob | Joined) -> JSON:
    """Put a file into a project."""
    members: JSON = {"bytes": content.size, "filename": name, "purpose": purpose, "expires_at": None}
    thing = project.new("file", **members, status="processed", status_details=None)
    project.attached[thing["id"]] = content
    return thing


def create_file(call: Call) -> JSON:
    """``POST /files``."""
    purpose = call.require("purpose")
    part = call.part("file")
    return new_file(call.project, part.filename or "upload", purpose, part.content)


def list_files(call: Call) -> JSON:
    """``GET /files``, by purpose."""
    things = list(call.project.shelf("file").values())
    if purpose := call.first("purpose"):
        things = [thing for thing in things if thing["purpose"] == purpose]
    return page("file", things, call.query, limit=10_000)


def retrieve_file(call: Call) -> JSON:
    """``GET /files/{id}``."""
    id_ = call.args["any_file"]
    if found := SYNTHETIC.fullmatch(id_):
        size = int(found[1]) * MIB
        return {
            "id": id_,
            "object": "file",
            "bytes": size,
            "created_at": 0,
            "filename": id_,
            "purpose": "assistants",
            "status": "processed",
        }
    return call.project.get("file", id_)


def file_content(call: Call) -> Answer:
    """``GET /files/{id}/content``."""
    id_ = call.args["any_file"]
    if found := SYNTHETIC.fullmatch(id_):
        return synthetic(int(found[1]))
    thing = call.project.get("file", id_)
    return blob_answer(call.project.attached[id_], thing["filename"])


def synthetic(mebibytes: int) -> Answer:
    """Content of any size without the memory for it."""
    size = mebibytes * MIB
    stream = (SYNTHETIC_PIECE for _ in range(size // PIECE))
    return Answer(stream=stream, length=size, content_type=b"application/octet-stream")


def blob_answer(content: Blob | Joined, filename: str) -> Answer:
    """A blob as a download."""
    if not content.whole:
        raise APIError(400, f"The demo upstream kept only the hash of this file: sha256 {content.sha256}.")
    name = re.sub(r"[^ !#-\[\]-~]", "_", filename).encode()
    return Answer(
        stream=content.pieces(),
        length=content.size,
        content_type=b"application/octet-stream",
        fields=[(b"content-disposition", b'attachment; filename="%b"' % name)],
    )


def delete_file(call: Call) -> JSON:
    """``DELETE /files/{id}``."""
    id_ = call.args["any_file"]
    call.project.get("file", id_)
    call.project.drop("file", id_)
    return {"id": id_, "object": "file", "deleted": True}


# Uploads.


def create_upload(call: Call) -> JSON:
    """``POST /uploads``: announce a large file."""
    for name in ("filename", "bytes", "mime_type", "purpose"):
        call.require(name)
    body, now = call.body, call.world.now()
    if int(body["bytes"]) > UPLOAD_MOST:
        raise APIError(400, f"Upload size exceeds maximum allowed size of {UPLOAD_MOST} bytes.", param="bytes")
    members = {name: body[name] for name in ("bytes", "filename", "purpose")}
    return call.project.new("upload", **members, status="pending", expires_at=now + 3600, file=None)


def open_upload(call: Call) -> JSON:
    """The upload that the path names, if parts may still come."""
    upload = call.things["upload"]
    if upload["status"] != "pending":
        raise APIError(400, f"Upload {upload['id']} has status {upload['status']}.")
    return upload


def create_part(call: Call) -> JSON:
    """``POST /uploads/{id}/parts``."""
    upload = open_upload(call)
    part = call.part("data")
    thing = call.project.new("upload_part", upload["id"], upload_id=upload["id"])
    call.project.attached[thing["id"]] = part.content
    return thing


def complete_upload(call: Call) -> JSON:
    """``POST /uploads/{id}/complete``: the parts, in the order given, become a file."""
    upload, part_ids = open_upload(call), call.require("part_ids")
    for id_ in part_ids:
        call.project.get("upload_part", id_, upload["id"])
    content = Joined([call.project.attached[id_] for id_ in part_ids])
    if content.size != upload["bytes"]:
        message = f"Expected {upload['bytes']} bytes, but the parts have {content.size}."
        raise APIError(400, message, code="upload_size_mismatch")
    file = new_file(call.project, upload["filename"], upload["purpose"], content)
    for id_ in list(call.project.shelf("upload_part", upload["id"])):
        call.project.drop("upload_part", id_, upload["id"])
    upload.update(status="completed", file=file)
    return upload


def cancel_upload(call: Call) -> JSON:
    """``POST /uploads/{id}/cancel``."""
    upload = open_upload(call)
    upload["status"] = "cancelled"
    return upload


# Batches.

BATCH_MOST = 2000  # lines, so that nobody waits for it
BATCH_COUNTS = ("total", "completed", "failed")


def create_batch(call: Call) -> JSON:
    """``POST /batches``: the lines of a file, answered later in another file."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        call.require(name)
    body, project, now = call.body, call.project, call.world.now()
    handler = batch_handlers().get(body["endpoint"])
    if handler is None:
        raise APIError(400, f"Invalid value: '{body['endpoint']}'.", param="endpoint", code="invalid_value")
    source = project.get("file", body["input_file_id"])
    if source["purpose"] != "batch":
        raise APIError(400, "Invalid purpose of the input file: expected 'batch'.", param="input_file_id")
    members = {name: body[name] for name in ("input_file_id", "endpoint", "completion_window")}
    stamps = dict.fromkeys(
        ("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    )
    batch = project.new(
        "batch", **members, **stamps, model=None, errors=None, status="validating", output_file_id=None,
        error_file_id=None, in_progress_at=now, expires_at=now + 86_400, metadata=body.get("metadata"),
        request_counts=dict.fromkeys(BATCH_COUNTS, 0),
    )  # fmt: skip
    project.begin(batch["id"], lambda: finish_batch(call, batch, handler))
    return batch


def batch_handlers() -> Routes:
    """The endpoints whose requests a batch may hold."""
    from . import answers, media, responses  # here, since they are in a ring

    return {
        "/v1/chat/completions": answers.create_chat,
        "/v1/completions": answers.create_completion,
        "/v1/embeddings": answers.create_embedding,
        "/v1/moderations": answers.create_moderation,
        "/v1/responses": responses.create_response,
        "/v1/images/generations": media.create_image,
    }


def finish_batch(call: Call, batch: JSON, handler: Handler) -> None:
    """Answer every line; what was refused goes to the error file."""
    project = call.project
    content: Blob | Joined | None = project.attached.get(batch["input_file_id"])
    lines = content.read().splitlines() if content is not None and content.whole else []
    now = project.world.now()
    if len(lines) > BATCH_MOST:
        problem = {"code": "too_many_tasks", "message": f"The demo answers at most {BATCH_MOST} lines."}
        batch.update(status="failed", failed_at=now, errors={"object": "list", "data": [problem]})
        return
    good, bad = Blob(), Blob()
    counts = dict.fromkeys(BATCH_COUNTS, 0)
    for line in filter(None, lines):
        answer = batch_line(call, line, handler)
        fine = answer["error"] is None and answer["response"]["status_code"] == 200  # noqa: PLR2004
        (good if fine else bad).feed(json.dumps(answer).encode() + b"\n")
        counts["completed" if fine else "failed"] += 1
        counts["total"] += 1
    for member, answers in (("output_file_id", good), ("error_file_id", bad)):
        if answers.size:
            batch[member] = new_file(project, f"{batch['id']}_{member[:-8]}.jsonl", "batch_output", answers)["id"]
    batch.update(status="completed", request_counts=counts, finalizing_at=now, completed_at=now)


def batch_line(call: Call, line: bytes, handler: Handler) -> JSON:
    """The answer to one line of a batch, as the endpoint itself would give it."""
    shared: JSON = {"id": "batch_req_" + call.world.mint("request")[4:]}
    try:
        request: Any = json.loads(line)
        asked, custom = {**request["body"], "stream": False}, request["custom_id"]
        path = str(request["url"]).removeprefix("/v1")
    except (ValueError, KeyError, TypeError):
        error = {"code": "invalid_json_line", "message": "This line is not parseable as a request."}
        return {**shared, "custom_id": None, "response": None, "error": error}
    status = 200
    try:
        body: Any = handler(replace(call, json=asked, path=path, args={}, things={}))
    except (APIError, *MALFORMED) as error:
        refusal = error if isinstance(error, APIError) else malformed(error)
        status, body = refusal.status, {"error": refusal.error}
    response = {"status_code": status, "request_id": call.world.mint("request"), "body": body}
    return {**shared, "custom_id": custom, "response": response, "error": None}


def list_batches(call: Call) -> JSON:
    """``GET /batches``."""
    return call.project.page("batch", "", call.query)


def cancel_batch(call: Call) -> JSON:
    """``POST /batches/{id}/cancel``."""
    batch, now = call.things["batch"], call.world.now()
    if call.project.work.pop(batch["id"], None) is None:
        raise APIError(409, f"Cannot cancel a batch with status '{batch['status']}'.")
    batch.update(status="cancelling", cancelling_at=now)

    def finish() -> None:
        batch.update(status="cancelled", cancelled_at=now)

    call.project.begin(batch["id"], finish)
    return batch


ROUTES: Routes = {
    "POST /files": create_file,
    "GET /files": list_files,
    "GET /files/{any_file}": retrieve_file,
    "DELETE /files/{any_file}": delete_file,
    "GET /files/{any_file}/content": file_content,
    "POST /uploads": create_upload,
    "POST /uploads/{upload}/parts": create_part,
    "POST /uploads/{upload}/complete": complete_upload,
    "POST /uploads/{upload}/cancel": cancel_upload,
    "POST /batches": create_batch,
    "GET /batches": list_batches,
    "GET /batches/{batch}": retrieve,
    "POST /batches/{batch}/cancel": cancel_batch,
}
