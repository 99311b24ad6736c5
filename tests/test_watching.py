"""When files count as changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.config import Listener, ListenerTLS, UpstreamTLS
from relay.process.watching import Watch, watched_files
from relay.values import replace
from tests.harness import config_over, deployment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


@pytest.fixture
def watch(file: Path) -> Watch:
    watch = Watch()
    watch.begin()
    watch.note([str(file)])
    assert not watch.has_news()
    return watch


def test_a_change_is_news_once_it_is_still(watch: Watch, file: Path) -> None:
    file.write_text("three")
    assert not watch.has_news(), "it may not be whole yet"
    file.write_text("fourteen")
    assert not watch.has_news()
    assert watch.has_news()
    assert watch.has_news(), "as long as nobody reads it"
    watch.begin()
    watch.note([str(file)])
    assert not watch.has_news()
    assert not watch.has_news()


def test_a_file_that_goes_and_comes_back_is_news(watch: Watch, file: Path) -> None:
    file.unlink()
    assert [watch.has_news() for _ in range(2)] == [False, True]
    watch.begin()
    watch.note([str(file)])
    assert [watch.has_news() for _ in range(3)] == [False] * 3
    file.write_text("one")
    assert [watch.has_news() for _ in range(2)] == [False, True]


def test_a_change_while_it_is_read_is_news(watch: Watch, file: Path) -> None:
    watch.begin()
    watch.note([str(file)])
    file.write_text("later")
    watch.note([str(file)])  # named twice; the first reading counts
    assert [watch.has_news() for _ in range(2)] == [False, True]


def test_what_a_failed_reading_did_not_reach_is_watched_still(watch: Watch, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    watch.begin()
    watch.note([str(other)])
    watch.fail()
    assert [watch.has_news() for _ in range(3)] == [False] * 3
    file.write_text("two, at last")
    assert [watch.has_news() for _ in range(2)] == [False, True]
    watch.begin()
    watch.note([str(file)])
    other.write_text("no longer of interest")
    assert [watch.has_news() for _ in range(2)] == [False, False]


def test_certificates_count_too() -> None:
    tls = UpstreamTLS(ca_file="ca.pem", certificate="us.pem", key="us.key")
    config = config_over(deployment("a", 1, tls=tls), deployment("b", 1), files=("c.yaml", "key"))
    assert watched_files(config) == {"c.yaml", "key", "ca.pem", "us.pem", "us.key"}
    config = replace(config, listener=Listener(tls=ListenerTLS("own.pem", client_ca="them.pem")))
    assert watched_files(config) == {"c.yaml", "key", "ca.pem", "us.pem", "us.key", "own.pem", "them.pem"}
