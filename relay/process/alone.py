"""The life of a worker that is the only process: it heeds the signals, and reads the configuration, by itself."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .serving import heed_signals
from .watching import LOOK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .reloading import Reloader
    from .serving import Service
    from .systemd import Notifier

LOG = logging.getLogger("passthrough.server")


class Alone:
    """Runs a service. ``say_ready`` is called once it listens."""

    def __init__(self, service: Service, reloader: Reloader, notifier: Notifier, *, watch: bool) -> None:
        self._service = service
        self._reloader = reloader
        self._notifier = notifier
        self._watch = watch
        self._asked = asyncio.Event()

    async def run(self, say_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT, then drain. A second signal ends the process at once, status 1."""
        heed_signals(self._stop, self._asked.set)
        tasks = [asyncio.create_task(self._reload(), name="reload")]
        if self._watch:
            tasks.append(asyncio.create_task(self._look(), name="watch"))

        def ready() -> None:
            say_ready()
            self._notifier.ready()

        try:
            await self._service.run(ready, self._notifier.stopping)
        finally:
            for task in tasks:
                task.cancel()

    def _stop(self) -> None:
        """Begin to drain; who asks twice does not want to wait."""
        if self._service.stop.is_set():
            os._exit(1)
        self._service.stop.set()

    async def _reload(self) -> None:
        """Read the configuration whenever somebody asks; those who ask meanwhile are answered by one more reading."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading()
            try:
                config = await asyncio.to_thread(self._reloader.read)  # large files take a while
                self._service.apply(config)
            except ConfigError as error:
                self._reloader.refuse(error)
            except Exception:  # a fault of ours must not be the last reload
                LOG.exception("the configuration could not be reloaded")
            else:
                self._reloader.accept(config)
            self._notifier.ready()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._reloader.has_news():
                self._asked.set()
