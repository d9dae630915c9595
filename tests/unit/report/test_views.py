# SPDX-License-Identifier: GPL-2.0-or-later
"""What people see: tables and lines, without control codes where there is no terminal."""

from __future__ import annotations

import io
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from framework.ptys import written
from pvtime.engine.base import Outcome
from pvtime.report import units
from pvtime.report.console import LINE_LIMIT, LineBuffer
from pvtime.report.model import Moment, Reading, RunReport, VcpuRow
from pvtime.report.table import moment_table, print_report, shares_table
from pvtime.report.views import LinesView, LiveView, QuietView, RawView, View, is_terminal
from pvtime.userland.protocol import CpuTimes

STAT = CpuTimes(
    user_ns=4_900_000_000,
    nice_ns=0,
    system_ns=90_000_000,
    idle_ns=20_000_000,
    iowait_ns=10_000_000,
    irq_ns=0,
    softirq_ns=10_000_000,
    steal_ns=4_990_000_000,
    guest_ns=1_000_000_000,
    guest_nice_ns=0,
)
ROWS = (
    VcpuRow(
        0,
        5_000_000_000,
        4_998_878_240,
        4_998_878_240,
        True,
        312,
        stolen_ns=4_998_878_240,
        guest=STAT,
        guest_error_ns=-8_878_240,
        lowest_guest_error_ns=-2_345_678_901,
        highest_guest_error_ns=1_000_000,
    ),
    VcpuRow(1, 5_000_000_000, 4_998_878_240, 4_998_878_247, True, 9, stolen_ns=4_998_878_240),
    VcpuRow(2, 1_000, 0, 0, False, 1),
)
MOMENT = Moment(10.0, ROWS)
REPORT = RunReport("unicorn", "userspace", "6.1.0", 1.5, 11.0, Outcome.POWER_OFF, 10.0, ROWS, None)


def last_table(moment: Moment = MOMENT) -> str:
    """Return the last table as a file gets it."""
    file = io.StringIO()
    print_report(REPORT, moment, file)
    return file.getvalue()


def words(text: str) -> str:
    """Return a text in one line, with single spaces."""
    return " ".join(text.split())


def lines_of(table: str, vcpu: int = 0) -> list[str]:
    """Return a vCPU's line in the table of stolen time, and those in the table of shares."""
    lines = map(words, table.splitlines())
    return [line for line in lines if line.startswith(f"{vcpu} ")]


def test_the_last_table_has_every_figure_of_a_vcpu_in_one_line() -> None:
    assert lines_of(last_table())[0] == "0 4.999 s 4.999 s 4.990 s 0 ns -8.9 ms -2.3 s"


def test_the_hosts_columns_since_the_start_are_shares_of_their_sum() -> None:
    row = replace(ROWS[0], stolen_ns=2 * 10**9, idle_ns=10**9, stopped_ns=15 * 10**8, host_ns=5 * 10**8)
    table = last_table(Moment(10.0, (row,)))
    assert "per cent of the 10.00 s since the start" in table
    assert lines_of(table)[1:] == ["0 start 50.0 20.0 10.0 15.0 5.0 - - - -"]


def test_the_sums_of_the_guests_columns_stand_beside_the_hosts() -> None:
    # Seen with 6.1: 105.6 % where idle steal was counted twice, 80.7 % where slivers of it ate whole ticks.
    before = replace(
        ROWS[0], ran_ns=10**9, stolen_ns=10**9, guest=replace(STAT, user_ns=0, idle_ns=0, steal_ns=10**9)
    )
    row = replace(ROWS[0], stolen_ns=5 * 10**9)
    table = last_table(Moment(12.0, (row, *ROWS[1:]), begin=Reading(2.0, (before, *ROWS[1:]))))
    assert "of the 10.00 s since the start and of the 8.00 s since userland's first report" in words(table)
    assert lines_of(table)[2] == "0 ready 50.0 50.0 0.0 0.0 0.0 61.2 49.9 0.2 111.4"
    assert lines_of(table, 1)[2] == "1 ready 0.0 0.0 0.0 0.0 0.0 - - - -", "the guest has not reported it"


def test_a_guest_that_has_asked_again_has_its_count_explained() -> None:
    table = last_table(Moment(10.0, (replace(ROWS[0], starts=1), replace(ROWS[1], starts=3))))
    assert (
        "vCPU 1: the guest has asked for its stolen time 3 times: its figures count from the last on" in table
    )
    assert "vCPU 0: " not in table


def test_an_error_of_some_ns_is_not_rounded_away() -> None:
    assert "+7 ns" in last_table()


def test_a_structure_that_nobody_can_read_is_a_dash_and_not_a_figure() -> None:
    table = last_table(Moment(10.0, (replace(ROWS[0], structure_ns=None),)))
    assert lines_of(table)[0] == "0 4.999 s - 4.990 s - -8.9 ms -2.3 s"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (replace(ROWS[0], enabled=False), "the guest has not asked for its stolen time"),
        (replace(ROWS[0], enabled=False, structure_ns=None), "it has no structure, so the guest cannot know"),
        (replace(ROWS[2], loads=0), "the guest has not switched it on"),
    ],
)
def test_truth_is_shown_of_a_vcpu_whose_guest_does_not_know_it_and_the_reason(
    row: VcpuRow, reason: str
) -> None:
    # It was shown as "off": three reasons in one word, and the figure that the host knows was hidden.
    table = last_table(Moment(10.0, (row,)))
    assert f"vCPU {row.index}: {reason}" in table
    assert units.time(row.truth_ns) in lines_of(table, row.index)[0]


STOLEN_FROM = replace(ROWS[0], injected_ns=3_000_000_000, fault="the structure at 0x40000000 is away")
INJECTED = Moment(10.0, (STOLEN_FROM, *ROWS[1:]), stealing=True)


def test_what_was_stolen_elsewhere_has_no_share_of_the_time_here() -> None:
    before = replace(ROWS[0], ran_ns=10**9, stolen_ns=0, guest=None)
    row = replace(ROWS[0], stolen_ns=12 * 10**9)
    table = last_table(Moment(16.0, (row,), begin=Reading(0.0, (before,))))
    assert "of the 17.00 s since the start and of the 16.00 s since it runs here" in words(table)
    assert lines_of(table)[2] == "0 here 25.0 75.0 0.0 0.0 0.0 - - - -"


def test_what_was_injected_has_a_column_where_there_was_a_schedule() -> None:
    assert "injected" not in last_table()
    table = last_table(INJECTED)
    assert "injected" in table
    assert lines_of(table)[0] == "0 4.999 s 3.000 s 4.999 s 4.990 s 0 ns -8.9 ms -2.3 s"
    assert STOLEN_FROM.natural_ns == 1_998_878_240


def test_a_fault_is_told_under_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    note = "vCPU 0: the structure at 0x40000000 is away"
    assert note in last_table(INJECTED).splitlines()
    monkeypatch.setenv("TERM", "xterm-256color")
    assert note in written(lambda file: draw_live(file, INJECTED))


def test_the_last_table_names_the_run() -> None:
    assert (
        "kernel 6.1.0, userland after 1.50 s\nengine unicorn, placement userspace, power-off after 11.00 s"
        in (last_table())
    )


@pytest.mark.parametrize("moment", [MOMENT, INJECTED])
@pytest.mark.parametrize("factor", [1, 100, 10_000])
def test_the_last_table_fits_a_terminal_of_80_columns_after_a_day_too(moment: Moment, factor: int) -> None:
    rows = tuple(
        replace(
            row,
            ran_ns=factor * row.ran_ns,
            truth_ns=factor * row.truth_ns,
            structure_ns=factor * (row.structure_ns or 0),
            injected_ns=factor * row.injected_ns,
            stopped_ns=factor * 10**9,
            loads=factor * row.loads,
        )
        for row in moment.vcpus
    )
    begin = Reading(1.0, moment.vcpus)
    table = last_table(replace(moment, elapsed_seconds=10.0 * factor, vcpus=rows, begin=begin))
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    assert "…" not in table


@pytest.mark.parametrize("moment", [MOMENT, INJECTED])
@pytest.mark.parametrize("width", [20, 40, 60, 79])
def test_a_narrow_terminal_gets_the_first_columns_whole(
    moment: Moment, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It was drawn for 80 columns: the heading of the live table scrolled up for ever.
    for table in (moment_table(moment, "figures"), shares_table(moment, boot=True)):
        file = io.StringIO()
        Console(file=file, width=width).print(table)
        lines = [line.rstrip() for line in file.getvalue().splitlines()]
        assert max(map(len, lines)) <= width
        assert "…" not in file.getvalue()
        assert any(line.strip().startswith("vCPU") for line in lines)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    drawn = [CSI.sub("", line) for line in re.split("[\r\n]+", written(draw_live))]
    assert all(len(line.rstrip()) <= width for line in drawn if "guest" not in line)


def test_a_file_gets_no_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in last_table()


def test_lines_view_prints_the_console_and_a_line_of_figures_now_and_then() -> None:
    file = io.StringIO()
    with LinesView(file) as view:
        view.console(b"first\r\nsec")
        view.moment(MOMENT)
        view.moment(Moment(10.1, ROWS))
        view.console(b"ond\r\nlast")
    assert file.getvalue().splitlines() == [
        "first",
        "pvtime: 10.0 s: vCPU 0 ran 5.000 s stolen 4.999 s idle 0.000 s, "
        "vCPU 1 ran 5.000 s stolen 4.999 s idle 0.000 s, vCPU 2 ran 0.000 s stolen 0.000 s idle 0.000 s",
        "second",
        "last",
    ]


def test_lines_view_tells_what_was_injected() -> None:
    file = io.StringIO()
    with LinesView(file) as view:
        view.moment(INJECTED)
    assert "stolen 4.999 s (3.000 s injected) idle 0.000 s, vCPU 1" in file.getvalue()


@pytest.mark.parametrize("view_type", [LinesView, LiveView, RawView])
def test_a_line_of_our_own_is_not_mixed_with_the_guests(
    view_type: type[LinesView | LiveView | RawView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    def draw(file: TextIO) -> None:
        view = view_type(file)
        with view if isinstance(view, LinesView | LiveView) else nullcontext():
            view.console(b"whole\r\nunfin")
            view.note("a note")
            view.console(b"ished\r\n")
            view.note("another")

    lines = [CSI.sub("", line).strip() for line in written(draw).splitlines()]
    assert "pvtime: a note" in lines
    assert "pvtime: another" in lines


def test_a_quiet_view_shows_no_line_of_our_own() -> None:
    view: View = QuietView()
    view.note("a note")


def test_a_guest_that_never_asks_has_its_truth_shown_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # With --placement guest or --without nothing was shown until the last table.
    moment = Moment(10.0, (replace(ROWS[0], enabled=False),))
    file = io.StringIO()
    with LinesView(file) as view:
        view.moment(moment)
    assert file.getvalue() == "pvtime: 10.0 s: vCPU 0 ran 5.000 s stolen 4.999 s idle 0.000 s\n"
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "4.999 s" in written(lambda file: draw_live(file, moment))


def test_lines_view_tells_a_stop_and_the_live_view_has_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = Moment(10.0, (replace(ROWS[0], stopped_ns=3 * 10**9),))
    file = io.StringIO()
    with LinesView(file) as view:
        view.moment(moment)
    assert file.getvalue().endswith(" idle 0.000 s stopped 3.000 s\n")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = CSI.sub("", written(lambda file: draw_live(file, moment)))
    assert any(" 23.1 " in line for line in lines_of(text)), text


def draw_live(file: TextIO, moment: Moment = MOMENT) -> None:
    with LiveView(file) as view:
        view.console(b"hello from the guest\n")
        view.moment(moment)


def test_live_view_draws_over_itself_and_leaves_the_guests_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    text = written(draw_live)
    assert "hello from the guest" in text
    assert "10.0 s after the start" in text
    assert "\x1b[2K" in text, "the table is not taken away at the end"


CSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Control sequences."""
SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, bold, dim and the like."""


def test_a_terminal_gets_bold_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert SGR.search(written(draw_live)) is not None


def test_no_color_is_obeyed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    text = written(draw_live)
    assert SGR.search(text) is None


def test_a_dumb_terminal_gets_no_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert written(lambda file: print(is_terminal(file), file=file)) == "False\r\n"


@given(st.binary(max_size=300), st.integers(1, 50))
def test_a_hostile_console_sends_no_control_codes_to_the_terminal(data: bytes, piece: int) -> None:
    buffer = LineBuffer()
    lines = [line for at in range(0, len(data), piece) for line in buffer.feed(data[at : at + piece])]
    lines += buffer.flush()
    assert not any(
        (ord(char) < 32 and char != "\t") or 127 <= ord(char) < 160 for line in lines for char in line
    )


def test_colours_and_titles_of_the_guest_leave_only_their_text() -> None:
    assert LineBuffer().feed(b"\x1b[1;32mOK\x1b[0m \x1b]0;title\x07done\r\n") == ["OK done"]


def test_a_line_without_end_is_broken() -> None:
    lines = LineBuffer().feed(b"x" * (LINE_LIMIT * 3 + 5))
    assert [len(line) for line in lines] == [LINE_LIMIT] * 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 ns"),
        (1, "+1 ns"),
        (-999, "-999 ns"),
        (1500, "+1.5 us"),
        (-2_500_000, "-2.5 ms"),
        (3 * 10**9, "+3.0 s"),
    ],
)
def test_a_difference_keeps_its_sign_and_its_ns(value: int, text: str) -> None:
    assert units.difference(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (21 << 20, "21.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_take_the_unit_that_fits(value: int, text: str) -> None:
    assert units.size(value) == text
