# SPDX-License-Identifier: GPL-2.0-or-later
"""The image's lines on a console: whatever comes between them, and however they are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pvtime.judge.console import (
    MAX_CONSOLE,
    CheckResult,
    Clock,
    Console,
    Count,
    CountMoment,
    ImagePhase,
    Verdict,
)
from pvtime.judge.image_file import judge_image

SAID = b"""\
Firmware of somebody else\r
KTAP version 1\r
1..3\r
# SMCCC_VERSION 0x10001\r
ok 1 smccc_version\r
pvtime-result: smccc_version pass\r
ok 2 announced # SKIP this machine announces no stolen time\r
pvtime-result: announced skip\r
# cpu 0: fault at 0x10\r
not ok 3 normal_memory\r
# there is no memory at a structure's address\r
pvtime-result: normal_memory fail\r
pvtime-data: begin cpu=0 stolen_ns=17 clock_ns=99\r
pvtime-phase: load\r
pvtime-phase: calm\r
pvtime-data: end cpu=0 stolen_ns=19 clock_ns=101\r
pvtime-data: clock_ns=103\r
pvtime-result: end pass\r
"""


NO_MEMORY = "there is no memory at a structure's address"


def said(console: Console, data: bytes) -> list[Count | Clock | ImagePhase]:
    """Feed output line by line; return what it has for the host."""
    found = (console.feed(line) for line in data.splitlines(keepends=True))
    return [each for each in found if each is not None]


def test_results_reasons_details_and_counts_are_taken() -> None:
    console = Console()
    assert said(console, SAID) == [
        Count(CountMoment.BEGIN, 0, 17, 99),
        ImagePhase.LOAD,
        ImagePhase.CALM,
        Count(CountMoment.END, 0, 19, 101),
        Clock(103),
    ]
    assert console.ended
    assert console.results == [
        CheckResult("smccc_version", Verdict.PASS, "", ("SMCCC_VERSION 0x10001",)),
        CheckResult("announced", Verdict.SKIP, "this machine announces no stolen time"),
        CheckResult(
            "normal_memory",
            Verdict.FAIL,
            "there is no memory at a structure's address",
            ("cpu 0: fault at 0x10",),
        ),
    ]
    assert bytes(console.raw) == SAID


@given(st.lists(st.integers(0, len(SAID)), max_size=20))
def test_it_does_not_matter_where_the_output_is_cut(cuts: list[int]) -> None:
    whole, cut = Console(), Console()
    said(whole, SAID)
    at = [0, *sorted(cuts), len(SAID)]
    for begin, end in pairwise(at):
        said(cut, SAID[begin:end])
    assert (cut.results, cut.counts, cut.ended) == (whole.results, whole.counts, whole.ended)


LINES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(SAID.splitlines(keepends=True)),
    st.from_regex(rb"pvtime-(result|data|phase): [ -~]{0,80}\n", fullmatch=True),
)


@given(st.lists(LINES, max_size=300))
def test_a_guest_can_say_anything(lines: list[bytes]) -> None:
    console = Console()
    for line in lines:
        said(console, line)
    assert len(console.raw) <= MAX_CONSOLE
    assert len(console.results) <= 100
    assert all(count.cpu < 64 and 0 <= count.stolen_ns < 10**20 for count in console.counts)
    assert all(len(result.reason) <= 1024 and len(result.details) <= 64 for result in console.results)


def test_of_two_results_of_a_check_a_failure_is_kept() -> None:
    console = Console()
    said(console, b"1..2\npvtime-result: header pass\npvtime-result: header skip\n")
    assert console.results == [CheckResult("header", Verdict.PASS)]
    said(console, b"# it is 7\npvtime-result: header fail\npvtime-result: header pass\n")
    assert console.results == [CheckResult("header", Verdict.FAIL, "it is 7")]


def test_the_images_own_bytes_are_no_results() -> None:
    console = Console()
    said(console, judge_image())
    said(console, SAID.replace(b"1..3", b"1.."))
    assert not console.started
    assert console.results == []
    assert not console.ended


def test_a_line_without_an_end_costs_no_memory() -> None:
    console = Console()
    for _ in range(100):
        console.feed(b"x" * 65536)
    assert len(console.raw) == MAX_CONSOLE
    said(console, b"\n1..1\npvtime-result: header pass\n")
    assert [result.name for result in console.results] == ["header"]
