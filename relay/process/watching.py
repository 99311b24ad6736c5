"""Seeing that files change, without inotify: mounted secrets change by a link's renaming; network disks say little.

A change counts once it has been still for one look, so that a file that is being written is not read in the middle.
"""

# ruff: noqa: PTH116 - pathlib is slow to import
from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..config import Config

Stamp = tuple[int, int, int, int]
LOOK_SECONDS = 1.0  # between two looks; a change is acted on after one or two


def watched_files(config: Config) -> set[str]:
    """Every file whose content counts: the configuration, includes, keys, certificates."""
    names: set[str | None] = set(config.files)
    listener = config.listener.tls
    if listener is not None:
        names |= {listener.certificate, listener.key, listener.client_ca}
    for deployment in config.deployments:
        names |= {deployment.tls.ca_file, deployment.tls.certificate, deployment.tls.key}
    return {name for name in names if name is not None}


class Watch:
    """What some files looked like when they were read, and when somebody looked last."""

    def __init__(self) -> None:
        self._read: dict[str, Stamp | None] = {}
        self._seen: dict[str, Stamp | None] = {}
        self._before: dict[str, Stamp | None] = {}

    def begin(self) -> None:
        """Files are about to be read again."""
        self._before = {name: _stamp(name) for name in self._read}
        self._read, self._seen = {}, {}

    def note(self, names: Iterable[str]) -> None:
        """These are read next."""
        for name in names:
            if name not in self._read:
                self._read[name] = _stamp(name)

    def fail(self) -> None:
        """The reading ended early: what was not read this time is watched all the same."""
        self._read = self._before | self._read

    def has_news(self) -> bool:
        """Whether a file is another than the one that was read, and is so since the look before this one."""
        before, self._seen = self._seen, {name: _stamp(name) for name in self._read}
        return self._seen == before and self._seen != self._read


def _stamp(name: str) -> Stamp | None:
    """Tell two states of a file apart; links are followed. None: it is not there, or must not be looked at."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
