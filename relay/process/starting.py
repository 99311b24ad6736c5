"""From the command line to a serving process: the configuration, the sockets, one process or several, the loop.

The only room that reads the environment. Who serves (``passthrough.Worker``) is given to it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..config import LoggingSettings
from ..errors import ConfigError
from ..record.logs import Logs
from ..record.vitals import usable_cores
from ..wire.poller import new_loop
from .alone import Alone
from .command import DEMO_CONFIG, DEMO_HINT, DEMO_PROJECTS, announcement, base_url
from .listening import CannotListen, open_listening, raise_descriptor_limit
from .reloading import Reloader, check
from .serving import Service
from .source import Source
from .systemd import Notifier

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    from ..config import Config
    from ..subjects.subject import Resource
    from .explaining import Decider
    from .listening import Listening
    from .serving import Servant

    Hire = Callable[[Config, Mapping[str, str]], Servant]

GARBAGE = 10_000  # objects between two looks for cycles; Python's 700 are made by a dozen exchanges, hardly any in one
REFUSED = 2  # the exit status of a start that the configuration or the address forbids
INTERRUPTED = 130  # what shells say of SIGINT


def start(arguments: argparse.Namespace, hire: Hire, decide: Callable[[Config], Decider]) -> int:
    """Do what the command line asks for; the exit status of SPEC §2.

    ``hire`` makes the worker inside its loop, ``decide`` a router that has seen nothing yet.
    """
    gc.freeze()  # what was imported lives as long as the process
    gc.set_threshold(GARBAGE)
    gc.enable()
    try:
        if arguments.demo:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                return runner.run(demonstrate(arguments, hire))
        source = Source(arguments, os.environ)
        config = source.load()
        if arguments.check:
            check(config, (), os.environ)  # files and variables that reading the configuration did not look at
            return print_check(config, strict=arguments.strict)
        if arguments.explain:
            return print_explanation(config, decide(config), arguments)
        return run(config, source, arguments, hire)
    except (ConfigError, CannotListen) as error:
        say(str(error))
        return REFUSED
    except KeyboardInterrupt:  # before anybody was there to drain
        return INTERRUPTED


def say(text: str) -> None:
    """A line for whoever started the process; stdout belongs to the records."""
    print(text, file=sys.stderr, flush=True)


def print_check(config: Config, *, strict: bool) -> int:
    """``--check``: say what would be served."""
    from ..reading.describe import describe  # nobody else needs it

    for warning in config.warnings:
        say(warning)
    print(describe(config))
    return REFUSED if strict and config.warnings else 0


def print_explanation(config: Config, router: Decider, arguments: argparse.Namespace) -> int:
    """``--explain``: say who would be asked for a request. The store is read where there is one, and not made."""
    from .explaining import Asked, explain  # nobody else needs it

    method, target = arguments.explain
    with known_scopes(config, router.scopes) as lookup:
        print(explain(router, config, Asked(method.upper(), target, arguments.model), lookup, time.monotonic()))
    return 0


@contextmanager
def known_scopes(config: Config, scopes: Sequence[str]) -> Iterator[Callable[[Resource], str | None]]:
    """Tells the scope of the file that a resource was last seen in."""
    path = config.affinity.path
    if path is None or not os.path.exists(path):  # noqa: PTH110 - as everywhere at start
        yield lambda _: None
        return
    from ..scopes.affinity import AffinityStore

    now = time.time()
    store = AffinityStore.open(config.affinity, now)
    try:
        names = {store.canonical(scope): scope for scope in reversed(scopes)}
        yield lambda resource: names.get(store.lookup(resource.kind, resource.id, now) or "")
    finally:
        store.close()


def run(config: Config, source: Source, arguments: argparse.Namespace, hire: Hire) -> int:
    """Serve until told to stop."""
    raise_descriptor_limit()
    for warning in config.warnings:
        say(warning)
    listening = open_listening(config.listener, os.environ, os.getpid())
    try:
        check(config, listening.sockets, os.environ)
        reloader = Reloader(source, config, listening.sockets, os.environ)
        number = config.listener.workers or usable_cores()
        run_all = run_alone if number == 1 else partial(run_several, number)
        return run_all(reloader, listening, arguments, hire)
    finally:
        listening.close()
        listening.remove_name()


def run_alone(reloader: Reloader, listening: Listening, arguments: argparse.Namespace, hire: Hire) -> int:
    """One process, which does everything."""
    config = reloader.config

    async def live(logs: Logs) -> None:
        service = Service(hire(config, os.environ), listening, logs)
        alone = Alone(service, reloader, Notifier(os.environ), watch=arguments.watch)
        await alone.run(lambda: say(announcement(config, listening.sockets)))

    run_loop(config, arguments, live)
    return 0


def run_several(
    number: int, reloader: Reloader, listening: Listening, arguments: argparse.Namespace, hire: Hire
) -> int:
    """A parent, and ``number`` workers."""
    from .workers import Supervisor  # nobody else needs it

    config = reloader.config
    loop_factory(config)  # what is missing is said once, not by every worker
    logs = Logs(config.logging, arguments.log_level)
    logs.start()
    try:
        work = partial(work_for_parent, listening, arguments, hire)
        supervisor = Supervisor(number, work, reloader, listening, logs, Notifier(os.environ))
        return supervisor.run(lambda: say(announcement(config, listening.sockets)), watch=arguments.watch)
    finally:
        logs.stop()


def work_for_parent(
    listening: Listening, arguments: argparse.Namespace, hire: Hire, config: Config, line: socket.socket
) -> int:
    """The life of one of several workers; ``line`` leads to its parent."""
    from .tether import Tether  # nobody else needs it

    async def live(logs: Logs) -> None:
        await Tether(Service(hire(config, os.environ), listening, logs), line).run()

    run_loop(config, arguments, live)
    return 0


def run_loop(config: Config, arguments: argparse.Namespace, live: Callable[[Logs], Coroutine[Any, Any, None]]) -> None:
    """Run a worker's life in a loop of its own, with the log that the configuration asks for."""
    with asyncio.Runner(loop_factory=loop_factory(config)) as runner:
        logs = Logs(config.logging, arguments.log_level)
        logs.start()
        gc.freeze()  # so does what start-up has left
        try:
            runner.run(live(logs))
        finally:
            logs.stop()


def loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop]:
    """The kind of loop that the configuration asks for. Raises ConfigError where it is not installed."""
    if not config.listener.uvloop:
        return new_loop
    try:
        import uvloop  # an extra
    except ImportError:
        message = "server.uvloop: uvloop is not installed; install it (pip install uvloop), or take this line out"
        raise ConfigError([message]) from None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def demonstrate(arguments: argparse.Namespace, hire: Hire) -> int:
    """``--demo``: a make-believe OpenAI, and the proxy over two of its projects, in one process."""
    from ..demo import DemoUpstream  # nobody else needs it

    upstream = DemoUpstream(DEMO_PROJECTS)
    await upstream.start()
    logs = Logs(LoggingSettings(), arguments.log_level)
    logs.start()
    try:
        source = Source(arguments, {}, DEMO_CONFIG % {"base": upstream.base_url})
        config = source.load()
        listening = open_listening(config.listener, os.environ, os.getpid())
        say(DEMO_HINT % {"url": base_url(config, listening.sockets[0])})
        service = Service(hire(config, os.environ), listening, logs)
        reloader = Reloader(source, config, listening.sockets, os.environ)
        await Alone(service, reloader, Notifier(os.environ), watch=False).run(
            lambda: say(announcement(config, listening.sockets))
        )
    finally:
        logs.stop()
        await upstream.close()
    return 0
