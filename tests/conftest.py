"""What holds for all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Let the collector pass over what was imported: tests that look for leaks let it run, and it took a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What was left lying about is complained of at the end at the latest."""
    gc.unfreeze()
