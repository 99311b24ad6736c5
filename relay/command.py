"""The command line: what can be asked, and nothing else."""

from __future__ import annotations

import argparse

from .version import VERSION

EPILOG = """With no file, OPENAI_API_KEY serves that one key (OPENAI_BASE_URL is honoured).
Exit status: 0 after a drain, 1 when a second signal cut it short, 2 when the start was refused."""


def make_parser() -> argparse.ArgumentParser:
    """The options of SPEC §2."""
    parser = argparse.ArgumentParser(
        prog="passthrough",
        description="An OpenAI pass-through proxy over a pool of keys.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="config.yaml", help="the configuration, as LiteLLM writes it")
    add("--config", metavar="FILE", help="the same")
    add("--host", help="address to listen on (server.host)")
    add("--port", type=int, help="port to listen on, 0 for any free one (server.port, 4000)")
    add("--workers", metavar="N", help="processes, or 'auto' for one per core (server.workers, 1)")
    add("--check", action="store_true", help="read the configuration, print what it serves, exit 0 or 2")
    add("--strict", action="store_true", help="with --check: a warning is an error")
    add("--explain", nargs=2, metavar=("METHOD", "PATH"), help="print who would be asked for a request, and why")
    add("--model", help="with --explain: the model that the body names")
    add("--watch", action="store_true", help="reload when a file that the configuration names changes")
    add("--demo", action="store_true", help="serve a make-believe OpenAI, to try the proxy without a key")
    add("--log-level", default="INFO", type=str.upper, choices=["DEBUG", "INFO", "WARNING", "ERROR"], metavar="LEVEL")
    add("--version", action="version", version=f"passthrough {VERSION}")
    return parser
