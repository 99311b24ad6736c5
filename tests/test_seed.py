"""The page that this project was made from: what is printed there is run here, as it is printed.

Only the indentation of the YAML (which the page has lost), the host and port, and what a snippet takes from its reader
(a file id, a file on disk) are filled in. The proxy is a process of its own; behind it are two OpenAI projects.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from relay.demo import DemoUpstream
from tests.processes import Process, run, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [
    # The SDK marks the Assistants API as deprecated; the page, and applications, use it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # The page opens files and clients and never closes them.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

QUICK_START = """\
model_list:
  # Deployment 1
  - model_name: gpt-4
    litellm_params:
      model: openai/gpt-4
      api_key: os.environ/OPENAI_API_KEY_1 # reads from environment
  # Deployment 2
  - model_name: gpt-4
    litellm_params:
      model: openai/gpt-4
      api_key: os.environ/OPENAI_API_KEY_2 # reads from environment
"""
ENVIRON = {"OPENAI_API_KEY_1": "your-first-api-key", "OPENAI_API_KEY_2": "your-second-api-key"}
PROJECTS = {"your-first-api-key": "first", "your-second-api-key": "second"}
# Where a test shows that a hint decides, another group is at home.
ELSEWHERE = """\
  - model_name: gpt-3.5-turbo
    litellm_params: {model: openai/gpt-3.5-turbo, api_key: your-third-api-key, api_base: "%s"}
"""
THIRD = {"your-third-api-key": "third"}

PRINTED_URL = "http://0.0.0.0:4000/openai"
MOUNTS = ["/openai", "/openai/v1", "/v1"]

USE_THE_SDK = """\
import openai
client = openai.OpenAI(
base_url="http://0.0.0.0:4000/openai",
api_key="sk-1234" # your litellm proxy api key
)
# Use any OpenAI endpoint
assistant = client.beta.assistants.create(
name="Math Tutor",
instructions="You are a math tutor.",
model="gpt-4" # uses router model from config.yaml
)
"""
REQUEST_HEADER = """\
import openai
client = openai.OpenAI(
base_url="http://0.0.0.0:4000/openai",
api_key="sk-1234",
default_headers={"X-LiteLLM-Target-Model": "gpt-4"}
)
# Delete a file using the specified router model
client.files.delete(file_id="file-abc123")
"""
REQUEST_BODY = """\
import openai
client = openai.OpenAI(
base_url="http://0.0.0.0:4000/openai",
api_key="sk-1234"
)
# Upload file with target model
file = client.files.create(
file=open("data.jsonl", "rb"),
purpose="batch",
extra_body={"target_model_names": "gpt-4"}
)
"""
REQUEST_BODY_LIST = """\
# Or with a list (first model will be used)
file = client.files.create(
file=open("data.jsonl", "rb"),
purpose="batch",
extra_body={"target_model_names": ["gpt-4", "gpt-3.5-turbo"]}
)
"""
ASSISTANTS_WALK = [
    """\
import openai
client = openai.OpenAI(
base_url="http://0.0.0.0:4000/openai", # <your-proxy-url>/openai
api_key="sk-anything" # <your-proxy-api-key>
)
""",
    """\
# Create an assistant
assistant = client.beta.assistants.create(
name="Math Tutor",
instructions="You are a math tutor. Help solve equations.",
model="gpt-4o",
)
""",
    """\
# Create a thread
thread = client.beta.threads.create()
""",
    """\
# Add a message
message = client.beta.threads.messages.create(
thread_id=thread.id,
role="user",
content="Solve 3x + 11 = 14",
)
""",
    """\
# Create a run to get the assistant's response
run = client.beta.threads.runs.create(
thread_id=thread.id,
assistant_id=assistant.id,
)
# Check run status
run_status = client.beta.threads.runs.retrieve(
thread_id=thread.id,
run_id=run.id
)
""",
    """\
# List messages after the run completes
messages = client.beta.threads.messages.list(
thread_id=thread.id
)
""",
    """\
# Delete the assistant when done
client.beta.assistants.delete(assistant.id)
""",
]
CHAT_TOO = """\
for _ in range(16):
    client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "hi"}])
"""


class Seed:
    """The page's proxy, and the projects behind it."""

    def __init__(self, process: Process, demo: DemoUpstream, url: str) -> None:
        self.process = process
        self.demo = demo
        self.url = url
        self.names: dict[str, Any] = {}

    async def run(self, code: str) -> None:
        """Run a snippet after those before it."""
        assert PRINTED_URL in code or "client" in self.names
        await asyncio.to_thread(exec, code.replace(PRINTED_URL, self.url), self.names)

    def projects(self, path: str = "") -> set[str | None]:
        """Which projects were asked, of all or of one path."""
        return {heard.project for heard in self.demo.requests if heard.path.startswith(path)}


@asynccontextmanager
async def seed(folder: Path, mount: str, *, elsewhere: bool = False) -> AsyncIterator[Seed]:
    """Set up what the page sets up, with the demo upstream for api.openai.com."""
    demo = DemoUpstream({**PROJECTS, **THIRD}, pace=0)
    await demo.start()
    try:
        text = QUICK_START.replace("openai/gpt-4\n", f"openai/gpt-4\n      api_base: {demo.base_url}\n")
        if elsewhere:
            text = text.replace("model_list:\n", "model_list:\n" + ELSEWHERE % demo.base_url)
        (folder / "config.yaml").write_text(text)
        async with running("config.yaml", "--port", "0", folder=folder, environ=ENVIRON) as process:
            yield Seed(process, demo, await process.base_url() + mount)
    finally:
        await demo.close()


async def test_the_printed_configuration_is_served_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(QUICK_START)
    status, shown, said = await run("--config", "config.yaml", "--check", "--strict", folder=tmp_path, environ=ENVIRON)
    assert (status, said) == (0, "")
    assert shown.count("https://api.openai.com") == 2
    assert "your-first-api-key" not in shown


@pytest.mark.parametrize("mount", MOUNTS)
async def test_quick_start_and_load_balancing(tmp_path: Path, mount: str) -> None:
    async with seed(tmp_path, mount) as page:
        assert "gpt-4 (2 deployments)" in page.process.said[-1]
        await page.run(USE_THE_SDK)
        assert page.names["assistant"].id.startswith("asst_")
        assert page.names["assistant"].model == "gpt-4"
        await page.run(CHAT_TOO)
        assert page.projects("/chat/completions") == {"first", "second"}
        assert {heard.key for heard in page.demo.requests} == set(PROJECTS)


@pytest.mark.parametrize("mount", MOUNTS)
async def test_the_header_names_the_router_model(tmp_path: Path, mount: str) -> None:
    async with seed(tmp_path, mount, elsewhere=True) as page:
        for name in ("first", "second"):
            page.demo.projects[name].put("file", {"id": "file-abc123", "object": "file"})
        await page.run(REQUEST_HEADER)
        (heard,) = page.demo.requests
        assert (heard.method, heard.target) == ("DELETE", "/v1/files/file-abc123")
        assert heard.project in {"first", "second"}
        assert not [name for name, _ in heard.fields if b"litellm" in name.lower()]
        left = [name for name in ("first", "second") if page.demo.projects[name].shelf("file")]
        assert left == [{"first": "second", "second": "first"}[heard.project or ""]]


@pytest.mark.parametrize("mount", MOUNTS)
async def test_the_body_names_the_router_model(tmp_path: Path, mount: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = b'{"custom_id": "one"}\n'
    (tmp_path / "data.jsonl").write_bytes(content)
    async with seed(tmp_path, mount, elsewhere=True) as page:
        for snippet in (REQUEST_BODY, REQUEST_BODY_LIST):
            await page.run(snippet)
            heard = page.demo.requests[-1]
            assert heard.project in {"first", "second"}
            assert b"target_model_names" not in (heard.body or b"")
            file = page.names["file"]
            assert (file.filename, file.purpose, file.bytes) == ("data.jsonl", "batch", len(content))
            await page.run(f"content = client.files.content({file.id!r}).content")
            assert page.names["content"] == content
            await page.run(REQUEST_HEADER.replace("file-abc123", file.id))
            assert not page.demo.projects[heard.project or ""].shelf("file")
        assert page.projects() <= {"first", "second"}


@pytest.mark.parametrize("mount", MOUNTS)
async def test_the_whole_assistants_walk(tmp_path: Path, mount: str) -> None:
    async with seed(tmp_path, mount) as page:
        for snippet in ASSISTANTS_WALK:
            await page.run(snippet)
        names = page.names
        assert names["assistant"].model == "gpt-4o"
        assert names["message"].thread_id == names["thread"].id
        assert (names["run"].status, names["run_status"].status) == ("queued", "completed")
        answer, question = names["messages"].data
        assert question.content[0].text.value == "Solve 3x + 11 = 14"
        assert "Solve 3x + 11 = 14" in answer.content[0].text.value
        assert len(page.projects()) == 1
        assert [heard.outcome for heard in page.demo.requests] == ["done"] * 7
        await page.run(CHAT_TOO)
        assert len(page.projects()) == 2
    assert {record["status"] for record in page.process.records} == {200}
    assert len(page.process.records) == 7 + 16
