"""What is left of the API: containers, skills, chatkit, realtime secrets and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bodies import Blob
from .files import blob_answer
from .items import new_container, new_container_file
from .messages import JSON, Answer, APIError, absent
from .projects import KINDS
from .resources import delete, listing, plain, retrieve

if TYPE_CHECKING:
    from .messages import Call
    from .projects import Project
    from .routes import Routes

# Containers.


def create_container(call: Call) -> JSON:
    """``POST /containers``, with copies of the project's files in it."""
    call.require("name")
    call.project.check_references(call.body)
    container = new_container(call.project, call.body)
    for id_ in call.body.get("file_ids") or ():
        copy_file(call.project, container["id"], id_)
    return container


def copy_file(project: Project, container: str, id_: str) -> JSON:
    """Put a file of the project into a container."""
    file = project.get("file", id_)
    return new_container_file(project, container, f"/mnt/data/{file['filename']}", "user", project.attached[id_])


def create_container_file(call: Call) -> JSON:
    """``POST /containers/{id}/files``: an upload, or a file of the project."""
    container = call.args["container"]
    part = call.form.file("file") if call.form is not None else None
    if part is None:
        return copy_file(call.project, container, call.require("file_id"))
    return new_container_file(call.project, container, f"/mnt/data/{part.filename or 'file'}", "user", part.content)


def container_file_content(call: Call) -> Answer:
    """``GET /containers/{id}/files/{file}/content``."""
    file = call.things["container_file"]
    return blob_answer(call.project.attached[file["id"]], file["path"].rpartition("/")[2])


# Skills.


def create_skill(call: Call) -> JSON:
    """``POST /skills``: a folder of files, which is version 1."""
    part = call.form.file("files") if call.form is not None else None
    name = (part.filename or "skill").partition("/")[0] if part is not None else "skill"
    skill = call.project.new(
        "skill", name=name, description="A skill of the demo.", default_version="1", latest_version="0"
    )
    create_version(call, skill)
    return skill


def create_skill_version(call: Call) -> JSON:
    """``POST /skills/{id}/versions``."""
    return create_version(call, call.things["skill"])


def create_version(call: Call, skill: JSON) -> JSON:
    """Add a version; versions are numbered within their skill."""
    skill["latest_version"] = str(int(skill["latest_version"]) + 1)
    members: JSON = {name: skill[name] for name in ("name", "description")}
    version = call.project.new(
        "skill_version", skill["id"], skill_id=skill["id"], version=skill["latest_version"], **members
    )
    part = call.form.file("files") if call.form is not None else None
    call.project.attached[version["id"]] = part.content if part is not None else Blob(b"---\nname: demo\n---\n")
    return version


def update_skill(call: Call) -> JSON:
    """``POST /skills/{id}``: another default version."""
    find_version(call, call.require("default_version"))
    call.things["skill"]["default_version"] = call.body["default_version"]
    return call.things["skill"]


def find_version(call: Call, number: str) -> JSON:
    """A version of the path's skill by its number."""
    for version in call.project.shelf("skill_version", call.args["skill"]).values():
        if version["version"] == number:
            return version
    raise APIError(404, KINDS["skill_version"].missing.format(id=number))


def retrieve_version(call: Call) -> JSON:
    """``GET /skills/{id}/versions/{version}``."""
    return find_version(call, call.args["version"])


def delete_version(call: Call) -> JSON:
    """``DELETE /skills/{id}/versions/{version}``."""
    version = find_version(call, call.args["version"])
    call.project.drop("skill_version", version["id"], call.args["skill"])
    return {"id": version["id"], "object": "skill.version.deleted", "deleted": True, "version": version["version"]}


def skill_content(call: Call) -> Answer:
    """``GET /skills/{id}/content`` and ``/versions/{version}/content``."""
    version = find_version(call, call.args.get("version") or call.things["skill"]["default_version"])
    return blob_answer(call.project.attached[version["id"]], "skill.zip")


# ChatKit.


def create_chatkit_session(call: Call) -> JSON:
    """``POST /chatkit/sessions``: also starts the thread that its user will see."""
    workflow, user = call.require("workflow"), call.require("user")
    project, world = call.project, call.world
    secret = world.mint("client_secret")
    thread = project.new("chatkit_thread", title=None, status={"type": "active"}, user=user)
    content = [{"type": "input_text", "text": "hello"}]
    extra: Any = {"type": "chatkit.user_message", "content": content, "attachments": [], "inference_options": None}
    project.new("chatkit_item", thread["id"], thread_id=thread["id"], **extra)
    return project.new(
        "chatkit_session", client_secret=secret, expires_at=world.now() + 600, status="active", user=user,
        workflow={"id": workflow.get("id"), "version": None, "state_variables": None, "tracing": {"enabled": True}},
        rate_limits={"max_requests_per_1_minute": 10}, max_requests_per_1_minute=10,
        chatkit_configuration={
            "automatic_thread_titling": {"enabled": True},
            "file_upload": {"enabled": False, "max_file_size": None, "max_files": None},
            "history": {"enabled": True, "recent_threads": None},
        },
    )  # fmt: skip


def cancel_chatkit_session(call: Call) -> JSON:
    """``POST /chatkit/sessions/{id}/cancel``."""
    call.things["chatkit_session"]["status"] = "cancelled"
    return call.things["chatkit_session"]


# Realtime.

SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=msid-semantic: WMS\r\n"
MOST_SECRETS = 1000


def mint_secret(call: Call) -> str:
    """A key that is good for this project's realtime paths."""
    secrets, secret = call.world.secrets, call.world.mint("client_secret")
    secrets[secret] = call.project
    if len(secrets) > MOST_SECRETS:
        del secrets[next(iter(secrets))]
    return secret


def new_session(call: Call, given: JSON) -> JSON:
    """A realtime session as it would begin."""
    call.project.check_references(given)
    model = str(given.get("model") or "gpt-realtime")
    call.project.check_model(model)
    session = {"type": "realtime", "object": "realtime.session", "id": call.world.mint("realtime_session")}
    return {**session, "expires_at": 0, "include": None, "instructions": "", "tools": [], **given, "model": model}


def create_client_secret(call: Call) -> JSON:
    """``POST /realtime/client_secrets``."""
    session = new_session(call, call.body.get("session") or {})
    return {"value": mint_secret(call), "expires_at": call.world.now() + 600, "session": session}


def create_session(call: Call) -> JSON:
    """``POST /realtime/sessions`` and ``transcription_sessions``, as in the beta."""
    session = new_session(call, call.body)
    return {**session, "client_secret": {"value": mint_secret(call), "expires_at": call.world.now() + 60}}


def create_call(call: Call) -> Answer:
    """``POST /realtime/calls``: an SDP offer, alone or with a session; the answer says where the call is."""
    if call.form is not None or call.json:
        call.require("sdp")
    elif not call.content.size:
        raise absent("sdp")
    made = call.project.new("realtime_call")
    where = b"/v1/realtime/calls/" + made["id"].encode()
    return Answer(status=201, body=SDP, content_type=b"application/sdp", fields=[(b"Location", where)])


def act_on_call(call: Call) -> Answer:
    """``accept``, ``hangup``, ``refer`` and ``reject``: done, and nothing to say about it."""
    action = call.path.rpartition("/")[2]
    call.project.check_references(call.body)
    if action in ("hangup", "reject"):
        call.project.drop("realtime_call", call.args["realtime_call"])
    return Answer()


def check_provenance(call: Call) -> JSON:
    """``POST /content_provenance_checks``: nothing is ever found."""
    call.part("file")
    return {"object": "content_provenance_check", "created_at": call.world.now(), "results": []}


ONE_CALL = "POST /realtime/calls/{realtime_call}"
VERSION = "/skills/{skill}/versions/{version}"

ROUTES: Routes = {
    **plain("/containers", "container", "container.deleted"),
    "POST /containers": create_container,
    "POST /containers/{container}/files": create_container_file,
    "GET /containers/{container}/files": listing("container_file"),
    "GET /containers/{container}/files/{container_file}": retrieve,
    "DELETE /containers/{container}/files/{container_file}": delete("container.file.deleted"),
    "GET /containers/{container}/files/{container_file}/content": container_file_content,
    **plain("/skills", "skill", "skill.deleted"),
    "POST /skills": create_skill,
    "POST /skills/{skill}": update_skill,
    "GET /skills/{skill}/content": skill_content,
    "POST /skills/{skill}/versions": create_skill_version,
    "GET /skills/{skill}/versions": listing("skill_version"),
    f"GET {VERSION}": retrieve_version,
    f"DELETE {VERSION}": delete_version,
    f"GET {VERSION}/content": skill_content,
    "POST /chatkit/sessions": create_chatkit_session,
    "POST /chatkit/sessions/{chatkit_session}/cancel": cancel_chatkit_session,
    "GET /chatkit/threads": listing("chatkit_thread"),
    "GET /chatkit/threads/{chatkit_thread}": retrieve,
    "DELETE /chatkit/threads/{chatkit_thread}": delete("chatkit.thread.deleted"),
    "GET /chatkit/threads/{chatkit_thread}/items": listing("chatkit_item"),
    "POST /content_provenance_checks": check_provenance,
    "POST /realtime/client_secrets": create_client_secret,
    "POST /realtime/translations/client_secrets": create_client_secret,
    "POST /realtime/sessions": create_session,
    "POST /realtime/transcription_sessions": create_session,
    "POST /realtime/calls": create_call,
    **{f"{ONE_CALL}/{action}": act_on_call for action in ("accept", "hangup", "refer", "reject")},
}
