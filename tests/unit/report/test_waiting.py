# SPDX-License-Identifier: GPL-2.0-or-later
"""The line that says for what a command waits."""

from __future__ import annotations

import io
from typing import TextIO

import pytest

from framework.ptys import written
from pvtime.report.waiting import waiting


def wait(file: TextIO) -> None:
    """Wait for nothing."""
    with waiting(file, "booting an emulated arm64 host"):
        pass


def test_a_terminal_shows_what_is_waited_for_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # A lab's boot was a minute of silence on a busy host.
    monkeypatch.setenv("TERM", "xterm-256color")
    text = written(wait)
    assert "pvtime: booting an emulated arm64 host" in text
    assert "0:00:0" in text
    assert "\x1b[2K" in text, "the line is not taken away"


def test_a_file_gets_nothing() -> None:
    file = io.StringIO()
    wait(file)
    assert file.getvalue() == ""
