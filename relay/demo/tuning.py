"""Fine-tuning and evals: work on the project's own files that ends in the project's own models and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bodies import Blob
from .files import new_file
from .messages import JSON, APIError
from .resources import listing, plain, retrieve

if TYPE_CHECKING:
    from .messages import Call
    from .projects import Project
    from .routes import Routes

JOBS = "/fine_tuning/jobs"


def create_job(call: Call) -> JSON:
    """``POST /fine_tuning/jobs``."""
    body, project = call.body, call.project
    project.check_model(call.require("model"))
    for name in ("training_file", "validation_file"):
        if name == "training_file":
            call.require(name)
        if body.get(name) and body[name] not in project.shelf("file"):
            raise APIError(400, f"invalid {name}: {body[name]}", param=name, code="invalid_file")
    job = project.new(
        "ft_job", model=body["model"], status="validating_files", error=None, fine_tuned_model=None, finished_at=None,
        hyperparameters={"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0}, result_files=[],
        organization_id=project.organization, trained_tokens=None, training_file=body["training_file"],
        validation_file=body.get("validation_file"), integrations=[], seed=int(body.get("seed") or 42),
        estimated_finish=None, method=body.get("method"), metadata=body.get("metadata"),
        user_provided_suffix=body.get("suffix"),
    )  # fmt: skip
    note(project, job, "Created fine-tuning job")
    project.begin(job["id"], lambda: finish_job(project, job))
    return job


def note(project: Project, job: JSON, message: str) -> None:
    """Add an event to a job."""
    project.new("ft_event", job["id"], level="info", message=message, type="message", data=None)


def finish_job(project: Project, job: JSON) -> None:
    """End a job: a model that only this project may use, a file of results, a checkpoint."""
    suffix = job["user_provided_suffix"] or ""
    world = project.world
    name = f"ft:{job['model']}:{project.name}:{suffix}:{world.mint('model').removeprefix('ft:')}"
    model = {"id": name, "object": "model", "created": world.now(), "owned_by": project.organization}
    project.put("model", model)
    results = new_file(project, "step_metrics.csv", "fine-tune-results", Blob(b"step,train_loss\n1,0.5\n"))
    project.put("model", {**model, "id": f"{name}:ckpt-step-1"})
    project.new(
        "ft_checkpoint", job["id"], fine_tuned_model_checkpoint=f"{name}:ckpt-step-1", step_number=1,
        metrics={"step": 1, "train_loss": 0.5}, fine_tuning_job_id=job["id"],
    )  # fmt: skip
    job.update(
        status="succeeded",
        fine_tuned_model=name,
        finished_at=world.now(),
        trained_tokens=100,
        result_files=[results["id"]],
    )
    note(project, job, f"New fine-tuned model created: {name}")


def cancel_job(call: Call) -> JSON:
    """``POST .../cancel``."""
    job = call.things["ft_job"]
    if call.project.work.pop(job["id"], None) is None and job["status"] != "paused":
        raise APIError(400, f"Job has already completed: {job['id']}", code="invalid_cancel")
    job.update(status="cancelled", finished_at=call.world.now())
    note(call.project, job, "The job was cancelled")
    return job


def pause_job(call: Call) -> JSON:
    """``POST .../pause``."""
    job = call.things["ft_job"]
    if call.project.work.pop(job["id"], None) is None:
        raise APIError(400, f"Job cannot be paused: {job['id']}")
    job["status"] = "paused"
    return job


def resume_job(call: Call) -> JSON:
    """``POST .../resume``."""
    job = call.things["ft_job"]
    if job["status"] != "paused":
        raise APIError(400, f"Job is not paused: {job['id']}")
    job["status"] = "running"
    call.project.begin(job["id"], lambda: finish_job(call.project, job))
    return job


def create_permissions(call: Call) -> JSON:
    """``POST /fine_tuning/checkpoints/{model}/permissions``: names other projects, which need not be known here."""
    call.project.get("model", call.args["checkpoint"])
    made = [call.project.new("ft_permission", project_id=id_) for id_ in call.require("project_ids")]
    return {"object": "list", "data": made, "first_id": made[0]["id"], "last_id": made[-1]["id"], "has_more": False}


def delete_permission(call: Call) -> JSON:
    """``DELETE .../permissions/{permission}``."""
    call.project.drop("ft_permission", call.args["ft_permission"])
    return {"id": call.args["ft_permission"], "object": "checkpoint.permission", "deleted": True}


def validate_grader(call: Call) -> JSON:
    """``POST /fine_tuning/alpha/graders/validate``."""
    return {"grader": call.require("grader")}


def run_grader(call: Call) -> JSON:
    """``POST /fine_tuning/alpha/graders/run``: every sample is right."""
    call.require("grader")
    call.require("model_sample")
    return {
        "reward": 1.0,
        "metadata": {"name": "demo", "errors": {}, "execution_time": 0.01},
        "sub_rewards": {},
        "model_grader_token_usage_per_model": {},
    }


# Evals.


def create_eval(call: Call) -> JSON:
    """``POST /evals``: the configuration comes back as the schema of what will be looked at."""
    config: Any = call.require("data_source_config")
    criteria: Any = call.require("testing_criteria")
    schema = {"type": "object", "properties": {"item": config.get("item_schema"), "sample": {}}}
    config = {"type": "custom", "schema": schema} if config.get("type") == "custom" else {**config, "schema": schema}
    name, metadata = call.body.get("name") or "eval", call.body.get("metadata") or {}
    return call.project.new(
        "eval", name=name, data_source_config=config, metadata=metadata,
        testing_criteria=[{"id": f"criterion-{at}", **criterion} for at, criterion in enumerate(criteria)],
    )  # fmt: skip


def create_eval_run(call: Call) -> JSON:
    """``POST /evals/{id}/runs``."""
    source: Any = call.require("data_source")
    project, world = call.project, call.world
    project.check_references(source)
    model = source.get("model")
    if model:
        project.check_model(model)
    counts = {"total": 0, "errored": 0, "failed": 0, "passed": 0}
    run = project.new(
        "eval_run", call.args["eval"], eval_id=call.args["eval"], status="queued", model=model or "gpt-4o", error=None,
        name=call.body.get("name") or "run", report_url="https://platform.openai.com/evaluations", result_counts=counts,
        per_model_usage=[], per_testing_criteria_results=[], data_source=source,
        metadata=call.body.get("metadata") or {},
    )  # fmt: skip

    def finish() -> None:
        project.new(
            "eval_output_item", run["id"], run_id=run["id"], eval_id=run["eval_id"], status="pass",
            datasource_item_id=0, datasource_item={}, sample={"created_at": world.now()},
            results=[{"name": "demo", "passed": True, "score": 1.0}],
        )  # fmt: skip
        run.update(status="completed", result_counts={**counts, "total": 1, "passed": 1})

    project.begin(run["id"], finish)
    return run


def cancel_eval_run(call: Call) -> JSON:
    """``POST /evals/{id}/runs/{run}`` cancels it."""
    run = call.things["eval_run"]
    if call.project.work.pop(run["id"], None) is not None:
        run["status"] = "canceled"
    return run


def delete_eval(call: Call) -> JSON:
    """``DELETE /evals/{id}``."""
    call.project.drop("eval", call.args["eval"])
    return {"object": "eval.deleted", "deleted": True, "eval_id": call.args["eval"]}


def delete_eval_run(call: Call) -> JSON:
    """``DELETE /evals/{id}/runs/{run}``."""
    call.project.drop("eval_run", call.args["eval_run"], call.args["eval"])
    return {"object": "eval.run.deleted", "deleted": True, "run_id": call.args["eval_run"]}


RUN = "/evals/{eval}/runs/{eval_run}"
PERMISSIONS = "/fine_tuning/checkpoints/{checkpoint}/permissions"

ROUTES: Routes = {
    f"POST {JOBS}": create_job,
    f"GET {JOBS}": listing("ft_job"),
    f"GET {JOBS}/{{ft_job}}": retrieve,
    f"POST {JOBS}/{{ft_job}}/cancel": cancel_job,
    f"POST {JOBS}/{{ft_job}}/pause": pause_job,
    f"POST {JOBS}/{{ft_job}}/resume": resume_job,
    f"GET {JOBS}/{{ft_job}}/events": listing("ft_event"),
    f"GET {JOBS}/{{ft_job}}/checkpoints": listing("ft_checkpoint"),
    f"POST {PERMISSIONS}": create_permissions,
    f"GET {PERMISSIONS}": listing("ft_permission"),
    f"DELETE {PERMISSIONS}/{{ft_permission}}": delete_permission,
    "POST /fine_tuning/alpha/graders/validate": validate_grader,
    "POST /fine_tuning/alpha/graders/run": run_grader,
    **plain("/evals", "eval", "eval.deleted"),
    "POST /evals": create_eval,
    "DELETE /evals/{eval}": delete_eval,
    "POST /evals/{eval}/runs": create_eval_run,
    "GET /evals/{eval}/runs": listing("eval_run", order="asc"),
    f"GET {RUN}": retrieve,
    f"POST {RUN}": cancel_eval_run,
    f"POST {RUN}/cancel": cancel_eval_run,  # as the SDK has it
    f"DELETE {RUN}": delete_eval_run,
    f"GET {RUN}/output_items": listing("eval_output_item", order="asc"),
    f"GET {RUN}/output_items/{{eval_output_item}}": retrieve,
}
