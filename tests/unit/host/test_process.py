# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads as /proc tells of them, and names that are made to deceive."""

from __future__ import annotations

import os
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pvtime.abi.kvm import KvmIoctl
from pvtime.host.process import command_line, kvm_run_fd, parse_stat, process_ids, thread_ids, thread_state
from pvtime.host.text import NAME_LENGTH, printable


def test_this_process_is_found_with_its_threads() -> None:
    assert os.getpid() in process_ids()
    assert os.getpid() in thread_ids(os.getpid())
    state = thread_state(f"/proc/{os.getpid()}")
    assert state is not None
    assert state.parent == os.getppid()
    assert not state.stopped
    assert command_line(os.getpid())


def test_a_process_that_has_gone_is_none() -> None:
    assert thread_state("/proc/0") is None
    assert command_line(0) == []
    assert thread_ids(0) == []


@given(st.binary(max_size=15).filter(lambda name: b"\0" not in name))
def test_a_name_cannot_forge_the_fields_behind_it(name: bytes) -> None:
    fields = [b"R", b"7", *[b"0"] * 17, b"4711", *[b"0"] * 16, b"3", *[b"0"] * 13]
    state = parse_stat(b"42 (" + name + b") " + b" ".join(fields))
    assert state is not None
    assert (state.name, state.state, state.parent, state.start_ticks, state.cpu) == (name, "R", 7, 4711, 3)


@given(st.binary(max_size=200))
def test_no_line_raises(line: bytes) -> None:
    parse_stat(line)


def test_a_thread_in_kvm_run_is_told_by_the_request_that_the_engine_makes() -> None:
    line = b"29 0xb %#x 0x0 0x0 0x0 0x0 0xffffc5d0 0xffff9a1c"
    assert kvm_run_fd(line % KvmIoctl.RUN) == 11
    others = (line % (KvmIoctl.RUN + 1), b"running\n", b"-1 0xffffc5d0 0xffff9a1c", b"29 x y", b"")
    assert [kvm_run_fd(other) for other in others] == [None] * len(others)


@given(st.binary() | st.text())
def test_a_printed_name_is_one_line_without_control_characters(name: bytes | str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown) <= NAME_LENGTH
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_an_escape_sequence_is_shown_and_not_sent() -> None:
    assert printable(b"\x1b]0;root\x07\n") == "\\x1b]0;root\\x07\\n"
