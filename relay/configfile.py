"""LiteLLM's YAML file, and our own sections in it, read into ``relay.config``'s frozen values (SPEC §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .config import Config


def parse_config(text: str, source: str, environ: Mapping[str, str], read_file: Callable[[str], str]) -> Config:
    """Read a whole configuration.

    ``source`` is the file's path: it opens every message, and relative ``include`` and ``file/`` paths start from its
    folder. ``read_file`` takes a path and gives its text, or raises ``OSError``. Raises ``ConfigError`` with every
    problem of the file, each as ``file:line:column: message``, in the order of the file.
    """
    raise NotImplementedError


def single_key_config(environ: Mapping[str, str]) -> Config:
    """The configuration without a file (SPEC §2): ``OPENAI_API_KEY`` serves everything, as group ``*``.

    ``OPENAI_BASE_URL`` or ``OPENAI_API_BASE`` is its base. Raises ``ConfigError`` if the key is not there.
    """
    raise NotImplementedError


def check_listener(config: Config, host: str) -> str | None:
    """SPEC §3's security default: why ``config`` must not be served on ``host``, or None if it may be."""
    raise NotImplementedError


def describe(config: Config) -> str:
    """The effective routing table for ``--check``: lines of text, keys masked to their last four characters."""
    raise NotImplementedError
