"""Where the configuration comes from: a file and what it names, or the environment; and what options say instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..reading.configfile import check_listener, parse_config, single_key_config
from ..values import replace
from .watching import Watch, watched_files

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ..config import Config


class Source:
    """Reads the configuration, as often as it is asked to, and knows when that is worth while."""

    def __init__(self, arguments: argparse.Namespace, environ: Mapping[str, str], demo: str | None = None) -> None:
        """``demo``: a text that stands for the file."""
        self._demo = demo
        self._arguments = arguments
        self._environ = environ
        self._watch = Watch()

    def load(self) -> Config:
        """The configuration that the command line asks for. Raises ConfigError."""
        self._watch.begin()
        try:
            config = with_options(self._read(), self._arguments)
        except ConfigError:
            self._watch.fail()
            raise
        self._watch.note(watched_files(config))
        return config

    def has_news(self) -> bool:
        """Whether a file is another than the one that was read last; also one that made the last reading fail."""
        return self._watch.has_news()

    def _read(self) -> Config:
        if self._demo is not None:
            return parse_config(self._demo, "demo", self._environ, read_file)
        name = self._arguments.config or self._arguments.file
        if name is None:
            if not self._environ.get("OPENAI_API_KEY"):
                raise ConfigError(["No configuration: name a config.yaml, set OPENAI_API_KEY, or try --demo."])
            return single_key_config(self._environ)
        try:
            text = self._read_file(name)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError([f"{name}: cannot be read: {reason}."]) from None
        return parse_config(text, name, self._environ, self._read_file)

    def _read_file(self, name: str) -> str:
        self._watch.note((name,))  # before it is read: a change from now on is news
        return read_file(name)


def read_file(name: str) -> str:
    """A file's text. Raises OSError, UnicodeError."""
    with open(name, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
        return file.read()


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
