"""The command line: what can be asked, and nothing else."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..version import VERSION

if TYPE_CHECKING:
    import socket

    from ..config import Config

EPILOG = """With no file, OPENAI_API_KEY serves that one key (OPENAI_BASE_URL is honoured).
Exit status: 0 after a drain, 1 when a second signal cut it short, 2 when the start was refused."""


def make_parser() -> argparse.ArgumentParser:
    """The options of SPEC §2."""
    parser = argparse.ArgumentParser(
        prog="passthrough",
        description="An OpenAI pass-through proxy over a pool of keys.",
        epilog=EPILOG,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),  # while options are added
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="config.yaml", help="the configuration, as LiteLLM writes it")
    add("--config", metavar="FILE", help="the same")
    add("--host", help="address to listen on (server.host)")
    add("--port", type=port_number, help="port to listen on, 0 for any free one (server.port, 4000)")
    add("--workers", type=worker_count, metavar="N", help="processes, or 'auto' for one per core (server.workers, 1)")
    add("--check", action="store_true", help="read the configuration, print what it serves, exit 0 or 2")
    add("--strict", action="store_true", help="with --check: a warning is an error")
    add("--explain", nargs=2, metavar=("METHOD", "PATH"), help="print who would be asked for a request, and why")
    add("--model", help="with --explain: the model that the body names")
    add("--watch", action="store_true", help="reload when a file that the configuration names changes")
    add("--demo", action="store_true", help="serve a make-believe OpenAI, to try the proxy without a key")
    add("--log-level", default="INFO", type=str.upper, choices=["DEBUG", "INFO", "WARNING", "ERROR"], metavar="LEVEL")
    add("--version", action="version", version=f"passthrough {VERSION}")
    # This one fits the terminal, and would for every option above: the module that tells its width takes 5 ms to load.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def port_number(text: str) -> int:
    """``--port``: as ``server.port``. The system would take a larger number's last 16 bits without a word."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65_535:  # noqa: PLR2004 - the largest port
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to 65535; 0 takes a free one)")
    return int(text)


def worker_count(text: str) -> int:
    """``--workers``: 0 stands for ``auto``, as in ``server.workers``. Raises ValueError, which argparse words."""
    if text == "auto":
        return 0
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def announcement(config: Config, sockets: list[socket.socket]) -> str:
    """The line that a start prints: what to use as ``base_url``, and what is served there."""
    groups = ", ".join(f"{group.name} ({counted(len(group.deployments))})" for group in config.groups.values())
    return f"passthrough {VERSION} is ready: base_url = {base_url(config, sockets[0])} serves {groups}"


def counted(number: int) -> str:
    """``1 deployment``, ``2 deployments``."""
    return f"{number} deployment" + ("" if number == 1 else "s")


def base_url(config: Config, sock: socket.socket) -> str:
    """Where a client on this machine finds the proxy."""
    scheme = "http" if config.listener.tls is None else "https"
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"{scheme}://unix:{name}:/openai"
    host, port = name[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/openai"


DEMO_CONFIG = """\
# Two deployments in two scopes, as two OpenAI projects would be.
model_list:
  - model_name: gpt-4
    litellm_params: {model: openai/gpt-4, api_key: sk-demo-north, api_base: "%(base)s"}
    model_info: {id: north, scope: north}
  - model_name: gpt-4
    litellm_params: {model: openai/gpt-4, api_key: sk-demo-south, api_base: "%(base)s"}
    model_info: {id: south, scope: south}
affinity: {path: ":memory:"}
"""
DEMO_PROJECTS = {"sk-demo-north": "north", "sk-demo-south": "south"}

DEMO_HINT = """\
A make-believe OpenAI answers here; no key is needed and nothing leaves this machine. Try:

  curl %(url)s/chat/completions -H 'Content-Type: application/json' \\
       -d '{"model": "gpt-4", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'

  import openai
  client = openai.OpenAI(base_url="%(url)s", api_key="sk-anything")
  print(client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hello!"}]))
"""
