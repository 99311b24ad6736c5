"""The logging tree of one process, as one configuration after another wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .log import setup_logging

if TYPE_CHECKING:
    from ..config import LoggingSettings
    from .log import Stopper


class Logs:
    """Begins, replaces and ends what ``setup_logging`` does. Each process begins its own, after a fork."""

    def __init__(self, settings: LoggingSettings, level: str) -> None:
        self._settings = settings
        self._level = level
        self._stopper: Stopper | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Records that were dropped, in all."""
        return self._dropped + (self._stopper.dropped if self._stopper else 0)

    def start(self) -> None:
        """Put the handlers in place. Raises ConfigError."""
        try:
            self._stopper = setup_logging(self._settings, level=self._level)
        except (ValueError, TypeError, AttributeError, ImportError) as error:  # what dictConfig lets through
            reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            raise ConfigError([f"logging: {reason}"]) from None

    def stop(self) -> None:
        """Write what waits, and put the tree back as it was."""
        if self._stopper is not None:
            self._stopper.stop()
            self._dropped += self._stopper.dropped
            self._stopper = None

    def replace(self, settings: LoggingSettings) -> None:
        """Go on with other settings. Raises ConfigError; then those that held before hold on."""
        before = self._settings
        if settings == before:
            return
        self.stop()
        self._settings = settings
        try:
            self.start()
        except ConfigError:
            self._settings = before
            self.start()
            raise
