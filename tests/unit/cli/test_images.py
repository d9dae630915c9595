# SPDX-License-Identifier: GPL-2.0-or-later
"""``pvtime images``: what it says about the cache, and how a fetch is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TextIO

import pytest

from framework.ptys import written
from pvtime.cli.command import main
from pvtime.images.cache import silent
from pvtime.report.image_progress import image_progress


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, which the command uses."""
    monkeypatch.setenv("PVTIME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_empty_cache_is_said_to_be_empty_and_left_alone(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["images"]) == 1
    out, err = capsys.readouterr()
    assert out.count("missing") == 2
    assert str(cache) in out.replace("\n", "")
    assert err == ""
    assert not cache.exists()


def test_json_has_every_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["images", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    images = document["images"]
    assert [image["state"] for image in images] == ["missing", "missing"]
    assert {"name", "package", "version", "path", "size"} <= images[0].keys()


def test_a_fetch_that_nobody_shall_see_is_silent() -> None:
    with image_progress(None) as progress:
        assert progress is silent


def test_a_file_gets_one_line_for_each_thing_that_is_done() -> None:
    file = io.StringIO()
    with image_progress(file) as progress:
        for done in range(5):
            progress("reading the lists", done, None)
        progress("fetching linux-image", 1, 21)
        progress("fetching linux-image", 21, 21)
    assert file.getvalue() == "pvtime: reading the lists\npvtime: fetching linux-image\n"


def fetch(file: TextIO) -> None:
    """Show a fetch on ``file``."""
    with image_progress(file) as progress:
        progress("fetching linux-image", 0, 21 << 20)
        progress("fetching linux-image", 21 << 20, 21 << 20)


def fetch_nothing(file: TextIO) -> None:
    """Find the images in the cache."""
    with image_progress(file):
        pass


def test_a_terminal_gets_a_bar_with_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = written(fetch)
    assert "fetching linux-image" in shown
    assert "21.0/21.0 MiB" in shown


def test_a_bar_that_is_never_called_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert written(fetch_nothing) == ""
