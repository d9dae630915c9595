# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of a machine: the command line of a kernel with the stock userland."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.saves import write_number
from pvtime.errors import UsageError
from pvtime.run.inbox import Inbox
from pvtime.run.options import GuestOptions, RunOptions
from pvtime.run.source import NO_SCREEN, FromSaved, stock_append


def test_the_stock_userland_keeps_every_vcpu_busy_unless_told() -> None:
    assert stock_append(GuestOptions(vcpus=2), None, "xterm") == "pvtime.busy=2"
    assert stock_append(GuestOptions(vcpus=2, busy=1, append="quiet"), None, "") == "pvtime.busy=1 quiet"


def test_an_interactive_guest_is_idle_and_knows_its_terminal() -> None:
    words = stock_append(GuestOptions(vcpus=2), os.terminal_size((132, 50)), "xterm")
    assert words == "pvtime.busy=0 pvtime.shell pvtime.rows=50 pvtime.cols=132 pvtime.term=xterm"


def test_a_term_that_would_be_more_than_one_word_is_left_out() -> None:
    words = stock_append(GuestOptions(vcpus=2), NO_SCREEN, "xterm init=/bin/sh")
    assert words == "pvtime.busy=0 pvtime.shell"


def test_a_saved_machine_that_cannot_be_here_is_refused_by_its_name(tmp_path: Path) -> None:
    # "the saved machine has an impossible memory" named no file.
    write_number(tmp_path / "saved", 1)
    inbox = Inbox(eager=False)
    with pytest.raises(UsageError, match=f"^{tmp_path}/saved: .*bytes of memory are too few"):
        FromSaved(tmp_path / "saved").build(RunOptions(), inbox, NO_SCREEN)
    inbox.close()
