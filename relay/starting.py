"""From the command line to a serving process: the file, what the options say instead, the sockets, the loop.

The only room that reads the configuration and the environment. Who serves (``passthrough.Worker``) is given to it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .command import DEMO_CONFIG, DEMO_HINT, DEMO_PROJECTS, announcement, base_url
from .configfile import check_listener, parse_config, single_key_config
from .describe import describe
from .errors import ConfigError
from .listening import CannotListen, bind, raise_descriptor_limit, unbind_unix
from .log import setup_logging
from .serving import serve
from .tls import server_context

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Mapping

    from .config import Config
    from .serving import Servant

    Hire = Callable[[Config, Mapping[str, str]], Servant]

REFUSED = 2  # the exit status of a start that the configuration or the address forbids


def start(arguments: argparse.Namespace, hire: Hire) -> int:
    """Do what the command line asks for. ``hire`` makes the worker inside its loop; the exit status of SPEC §2."""
    try:
        if arguments.demo:
            return asyncio.run(demonstrate(arguments, hire))
        config = load(arguments, os.environ)
        if arguments.check:
            return check(config, strict=arguments.strict)
        return run(config, arguments, hire)
    except (ConfigError, CannotListen) as error:
        say(str(error))
        return REFUSED


def say(text: str) -> None:
    """A line for whoever started the process; stdout belongs to the records."""
    print(text, file=sys.stderr, flush=True)


def load(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """The configuration that the command line asks for. Raises ConfigError."""
    name = arguments.config or arguments.file
    if name is None:
        if not environ.get("OPENAI_API_KEY"):
            raise ConfigError(["No configuration: name a config.yaml, set OPENAI_API_KEY, or try --demo."])
        return with_options(single_key_config(environ), arguments)
    try:
        text = read_file(name)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{name}: cannot be read: {reason}."]) from None
    return with_options(parse_config(text, name, environ, read_file), arguments)


def read_file(name: str) -> str:
    """A file's text. Raises OSError, UnicodeError."""
    return Path(name).read_text("utf-8")


def with_options(config: Config, arguments: argparse.Namespace) -> Config:
    """The configuration with what the command line says instead. Raises ConfigError for an open door."""
    listener = config.listener
    if arguments.host is not None:
        listener = replace(listener, host=arguments.host, unix=None)
    if arguments.port is not None:
        listener = replace(listener, port=arguments.port, unix=None)
    if arguments.workers is not None:
        listener = replace(listener, workers=arguments.workers)
    problem = check_listener(config, listener.host)
    if problem is not None:
        raise ConfigError([problem])
    return replace(config, listener=listener)


def check(config: Config, *, strict: bool) -> int:
    """``--check``: say what would be served."""
    for warning in config.warnings:
        say(warning)
    print(describe(config))
    return REFUSED if strict and config.warnings else 0


def run(config: Config, arguments: argparse.Namespace, hire: Hire) -> int:
    """Serve until told to stop."""
    raise_descriptor_limit()
    for warning in config.warnings:
        say(warning)
    sockets = bind(config.listener)
    asyncio.run(run_worker(config, sockets, arguments, hire))
    for sock in sockets:
        unbind_unix(config.listener, sock)
    return 0


async def run_worker(config: Config, sockets: list[socket.socket], arguments: argparse.Namespace, hire: Hire) -> None:
    """One worker's life, from its loop's first turn to its last."""
    logs = setup_logging(config.logging, level=arguments.log_level)
    try:
        tls = server_context(config.listener.tls) if config.listener.tls is not None else None
        await serve(hire(config, os.environ), sockets, tls, lambda: say(announcement(config, sockets)))
    finally:
        logs.stop()


async def demonstrate(arguments: argparse.Namespace, hire: Hire) -> int:
    """``--demo``: a make-believe OpenAI, and the proxy over two of its projects, in one process."""
    from .demo import DemoUpstream  # nobody else needs it

    upstream = DemoUpstream(DEMO_PROJECTS)
    await upstream.start()
    try:
        text = DEMO_CONFIG % {"base": upstream.base_url}
        config = with_options(parse_config(text, "demo", {}, read_file), arguments)
        sockets = bind(config.listener)
        say(DEMO_HINT % {"url": base_url(config, sockets[0])})
        await run_worker(config, sockets, arguments, hire)
    finally:
        await upstream.close()
    return 0
