# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of a machine: the stock userland's command line, and what a host gives a saved machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.engines import CHOICES
from framework.saves import write_number
from pvtime.abi.arm64 import CNTFRQ_EL0
from pvtime.engine.base import COUNTER_FREQUENCY
from pvtime.errors import UsageError
from pvtime.probe.guest import boot, guest
from pvtime.probe.probe import Probe
from pvtime.run.inbox import Inbox
from pvtime.run.options import GuestOptions, RunOptions
from pvtime.run.source import NO_SCREEN, FromSaved, stock_append
from pvtime.scenario.leaving import exporter
from pvtime.userland.build import KERNEL_PARAMETERS

OWN = Path("Image")
"""A kernel of the user's own."""


def test_the_stock_userland_keeps_every_vcpu_busy_unless_told() -> None:
    assert stock_append(GuestOptions(vcpus=2, kernel=OWN), None, "xterm") == "pvtime.busy=2"
    assert stock_append(GuestOptions(busy=1, append="quiet", kernel=OWN), None, "") == "pvtime.busy=1 quiet"


def test_the_stock_kernel_alone_is_started_without_tests_of_its_own_unless_told() -> None:
    words = stock_append(GuestOptions(append="cryptomgr.notests=0"), None, "").split()
    assert words == [KERNEL_PARAMETERS, "pvtime.busy=1", "cryptomgr.notests=0"], "the kernel takes the last"


def test_an_interactive_guest_is_idle_and_knows_its_terminal() -> None:
    words = stock_append(GuestOptions(vcpus=2, kernel=OWN), os.terminal_size((132, 50)), "xterm")
    assert words == "pvtime.busy=0 pvtime.shell pvtime.rows=50 pvtime.cols=132 pvtime.term=xterm"


def test_a_term_that_would_be_more_than_one_word_is_left_out() -> None:
    words = stock_append(GuestOptions(vcpus=2, kernel=OWN), NO_SCREEN, "xterm init=/bin/sh")
    assert words == "pvtime.busy=0 pvtime.shell"


def test_a_saved_machine_that_cannot_be_here_is_refused_by_its_name(tmp_path: Path) -> None:
    # "the saved machine has an impossible memory" named no file.
    write_number(tmp_path / "saved", 1)
    inbox = Inbox(eager=False)
    with pytest.raises(UsageError, match=f"^{tmp_path}/saved: .*bytes of memory are too few"):
        FromSaved(tmp_path / "saved").build(RunOptions(), inbox, NO_SCREEN)
    inbox.close()


def test_a_saved_machine_takes_the_frequency_where_it_arrives_and_can_be_given_lpt(tmp_path: Path) -> None:
    with boot(CHOICES["unicorn"][0].build, guest()) as probe:
        exporter(probe).save(tmp_path / "saved", keep_running=False)
    inbox = Inbox(eager=False)
    options = RunOptions(engine_options={COUNTER_FREQUENCY: "25000000"}, lpt=True)
    built = FromSaved(tmp_path / "saved").build(options, inbox, NO_SCREEN)
    try:
        assert built.machine.config.lpt == 25_000_000
        assert "; Live Physical Time (never merged) at 25000000 Hz; " in built.reason
        assert "its counter had 62500000 Hz, and this host's has 25000000" in built.reason
        built.engine.start()
        assert Probe(built.machine, built.engine).read_register(0, CNTFRQ_EL0) == 25_000_000
    finally:
        built.engine.stop()
        built.machine.close()
        inbox.close()
