# SPDX-License-Identifier: GPL-2.0-or-later
"""Events: what the console's lines and the figures say, and a log that a guest cannot fill."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from framework.fakes import sample
from pvtime.report.console import LineBuffer
from pvtime.run import events
from pvtime.run.console_log import ConsoleLog
from pvtime.run.events import EventKind, EventLog, RunEvent, console_events, start_events


@pytest.mark.parametrize(
    ("line", "kind", "vcpu"),
    [
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [sh:83]", EventKind.SOFT_LOCKUP, 1),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 3", EventKind.HARD_LOCKUP, 3),
        ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", EventKind.RCU_STALL, None),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", EventKind.RCU_STALL, None),
        ("rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: {", EventKind.RCU_STALL, None),
        ("INFO: task kworker/0:1:12 blocked for more than 120 seconds.", EventKind.HUNG_TASK, None),
        ("CPU2: Booted secondary processor 0x0000000002 [0x410fd083]", EventKind.CPU_ON, 2),
        ("psci: CPU2 killed (polled 0 ms)", EventKind.CPU_OFF, 2),
        ("Kernel panic - not syncing: Attempted to kill init!", EventKind.PANIC, None),
    ],
)
def test_the_kernels_lines_are_events(line: str, kind: EventKind, vcpu: int | None) -> None:
    data = f"[    1.000000] {line}\r\n".encode()
    for cut in (0, 20, len(data)):
        lines = LineBuffer()
        found = [*console_events(lines, data[:cut]), *console_events(lines, data[cut:])]
        assert found == [(kind, f"[    1.000000] {line}", vcpu)]


def test_other_lines_are_none_and_a_long_one_is_cut() -> None:
    assert list(console_events(LineBuffer(), b"CPU1 is on\n\xff\x1b[2J\nsoft lockup\n")) == []
    ((_, text, _),) = console_events(LineBuffer(), b"Kernel panic - not syncing: " + b"x" * 1000 + b"\n")
    assert len(text) == events.TEXT_LENGTH


def test_a_count_that_was_started_is_an_event_once() -> None:
    before: dict[int, int] = {}
    started = [replace(sample(0), starts=1), replace(sample(1), starts=0)]
    assert [vcpu for _, _, vcpu in start_events(before, started)] == [0]
    assert list(start_events(before, started)) == []
    assert [vcpu for _, _, vcpu in start_events(before, [replace(sample(0), starts=2)])] == [0]


def event(text: str) -> RunEvent:
    """Return one."""
    return RunEvent(1.0, EventKind.PANIC, text)


def test_readers_of_the_log_get_each_event_once_and_its_end() -> None:
    log = EventLog(3)
    assert log.read(0) == ([], 0)
    log.add(event("a"))
    assert log.read(0) == ([event("a")], 1)
    assert log.read(1) == ([], 1)
    for text in "bcdef":
        log.add(event(text))
    assert log.read(1) == ([event("d"), event("e"), event("f")], 6), "the oldest are dropped"
    got: list[list[RunEvent]] = []
    reader = threading.Thread(target=lambda: got.extend(log.read(at, None)[0] for at in (6, 7)))
    reader.start()
    log.add(event("g"))
    log.close()
    reader.join()
    assert got == [[event("g")], []]


def test_the_consoles_last_output_is_kept_by_its_position() -> None:
    eager: list[bool] = []
    log = ConsoleLog(eager.append, size=8)
    log.feed(b"0123456")
    assert log.read(0) == (b"0123456", 7)
    assert log.read(5) == (b"56", 7)
    log.feed(b"789")
    kept, end = log.read(0)
    assert end == log.end == 10
    assert kept == b"0123456789"[-len(kept) :]
    assert 6 <= len(kept) <= 8
    log.feed(b"x" * 100)
    assert log.read(0) == (b"x" * len(log.read(0)[0]), 110)
    assert log.wait(100, None)
    assert not log.wait(110, 0)
    woken: list[bool] = []
    with log.attached(lambda: woken.append(log.closed)):
        assert eager[-1]
        log.feed(b"y")
        log.close()
    assert woken == [False, True]
    assert not eager[-1], "nobody waits for every byte any more"
    assert not log.wait(111, None), "the end has come"
