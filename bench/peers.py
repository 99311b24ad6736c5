"""Who is measured: nobody between (direct), the proxy of this checkout, and what else is installed for such work.

Each one runs as it comes: the proxy and LiteLLM with a key for clients over two deployments, nginx with kept upstream
connections and no buffering. Their logs go to /dev/null. Each is ended by its id.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from bench.load import Job, Seen
from bench.measure import Cores, pinned
from bench.messages import MODEL, request, small_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(ROOT / "passthrough.py")
KEY = "sk-1234-of-the-proxy"
PATIENCE = 60.0  # seconds until somebody who was started answers
ENDING = 10.0  # seconds for one answer, and until somebody who was asked to end has ended
PAUSE = 0.005  # seconds between two looks whether somebody has started
NOBODY = Cores()
SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"  # where nginx is, if not on the path of everybody
ENTRY = '- {model_name: %s, litellm_params: {model: openai/%s, api_key: sk-up-%d, api_base: "%s://127.0.0.1:%d/v1"}}\n'
NGINX = """\
daemon off; worker_processes 1; pid nginx.pid; error_log nginx.err;
events { worker_connections 9000; }
http {
  access_log off; keepalive_requests 10000000; client_max_body_size 64m;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  upstream mock { server 127.0.0.1:%d; keepalive 512; }
  server {
    listen 127.0.0.1:%d backlog=4096;
    location / {
      proxy_pass http://mock; proxy_http_version 1.1; proxy_buffering off;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer sk-up-1";
    }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody who can be asked."""

    name: str
    port: int
    pid: int


class Process:
    """A child that ends with its context; what it says on stderr can be waited for."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        cores: frozenset[int] = frozenset(),
        home: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._said = folder / f"{time.monotonic_ns()}.stderr"
        self._command = command
        self._home = home or folder
        self._environ = environ
        self._cores = cores

    def __enter__(self) -> Self:
        with pinned(self._cores), self._said.open("w") as said:
            self._child = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.communicate(timeout=ENDING)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate(timeout=ENDING)

    @property
    def pid(self) -> int:
        return self._child.pid

    def text(self) -> str:
        """What it has said so far."""
        return self._said.read_text(errors="replace")

    def wait_for(self, found: Callable[[], T | None]) -> T:
        """Wait until there is something."""
        until = time.monotonic() + PATIENCE
        while (value := found()) is None:
            if self._child.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(self._command)}: {self.text()[-2000:] or 'says nothing'}")
            time.sleep(PAUSE)
        return value

    def says(self, pattern: str) -> str:
        """Wait for a line; what its first group holds."""
        return self.wait_for(lambda: re.search(pattern, self.text()))[1]


def configuration(upstream: int, deployments: int = 2, more: str = "", scheme: str = "http") -> str:
    """A file that the proxy and LiteLLM read alike."""
    entries = "".join(ENTRY % (MODEL, MODEL, number, scheme, upstream) for number in range(deployments))
    return f"model_list:\n{entries}general_settings: {{master_key: {KEY}}}\n{more}"


def free_port() -> int:
    """A port that was free a moment ago, for those who cannot say which one they got."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answer(port: int) -> bool | None:
    """Whether a small request is answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), ENDING) as one:
            one.settimeout(ENDING)
            one.sendall(request(small_body(), KEY))
            return one.recv(64).startswith(b"HTTP/1.1 200 ") or None
    except OSError:
        return None


@contextmanager
def upstream(folder: Path, cores: Cores = NOBODY, options: Sequence[str] = ()) -> Iterator[Running]:
    """The upstream, which is direct access, too."""
    with Process([sys.executable, "-m", "bench.mock", *options], folder, cores.upstream, ROOT) as process:
        yield Running("direct", int(process.says(r"(\d+)\n")), process.pid)


@contextmanager
def passthrough(
    folder: Path, text: str, cores: Cores = NOBODY, name: str = "passthrough", options: Sequence[str] = ()
) -> Iterator[Running]:
    """The proxy with a configuration, once it has answered."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(text)
    command = [sys.executable, *options, PROGRAM, "config.yaml", "--port", "0"]
    with Process(command, folder, cores.proxy) as process:
        port = int(process.says(r"is ready: base_url = \S+:(\d+)/"))
        process.wait_for(lambda: answer(port))
        yield Running(name, port, process.pid)


@contextmanager
def passthrough_uvloop(folder: Path, mock: int, cores: Cores) -> Iterator[Running]:
    """The proxy on uvloop."""
    with passthrough(folder, configuration(mock, more="server: {uvloop: true}\n"), cores, "passthrough, uvloop") as one:
        yield one


@contextmanager
def nginx(folder: Path, mock: int, cores: Cores) -> Iterator[Running]:
    """One worker of nginx."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(NGINX % (mock, port))
    program = shutil.which("nginx", path=SBIN) or "nginx"
    command = [program, "-p", str(folder), "-c", "nginx.conf", "-e", str(folder / "nginx.err")]
    with Process(command, folder, cores.proxy) as process:
        process.wait_for(lambda: answer(port))
        yield Running("nginx", port, process.pid)


@contextmanager
def litellm(folder: Path, mock: int, cores: Cores) -> Iterator[Running]:
    """LiteLLM's proxy with one worker."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(configuration(mock))
    command = [shutil.which("litellm") or "litellm", "--config", "config.yaml", "--host", "127.0.0.1"]
    with Process([*command, "--port", str(port)], folder, cores.proxy) as process:
        process.wait_for(lambda: answer(port))
        yield Running("litellm", port, process.pid)


@contextmanager
def ourselves(folder: Path, mock: int, cores: Cores) -> Iterator[Running]:
    """The proxy as it comes."""
    with passthrough(folder, configuration(mock), cores) as one:
        yield one


PEERS: dict[str, tuple[Callable[..., AbstractContextManager[Running]], Callable[[], object]]] = {
    "nginx": (nginx, lambda: shutil.which("nginx", path=SBIN)),
    "litellm": (litellm, lambda: shutil.which("litellm")),
    "passthrough": (ourselves, lambda: True),
    "uvloop": (passthrough_uvloop, lambda: find_spec("uvloop")),
}


def installed() -> list[str]:
    """Who can be measured here."""
    return [name for name, (_, there) in PEERS.items() if there()]


@contextmanager
def everybody(names: Sequence[str], cores: Cores) -> Iterator[list[Running]]:
    """Direct access, and everybody who is named."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = stack.enter_context(upstream(folder / "mock", cores))
        yield [
            direct,
            *(stack.enter_context(PEERS[name][0](folder / name, direct.port, cores)) for name in names),
        ]


def ask(job: Job, cores: Cores = NOBODY) -> Seen:
    """Let a process do a job, and wait for what it saw."""
    command = [sys.executable, "-m", "bench.load", json.dumps(asdict(job))]
    with pinned(cores.load):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=job.bound)
    if done.returncode:
        raise SystemExit(f"{job}: {done.stderr[-2000:]}")
    return Seen(**json.loads(done.stdout))
